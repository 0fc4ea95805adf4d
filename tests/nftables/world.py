"""A piece of the internet: a fake API on TCP 443 and 8443 that allows some addresses, and an echo on UDP 53 and 443.

Answers each request with the address it came from: 200 to an allowed one, to others the 403 of a blocked key.

usage: world.py CERTIFICATE KEY ADDRESS,ADDRESS ALLOWED-ADDRESS…
"""
import json
import socket
import ssl
import sys
import threading
from http.server import BaseHTTPRequestHandler
from socketserver import ThreadingTCPServer


def main():
    certificate, key, addresses, *allowed = sys.argv[1:]
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)
    for address in addresses.split(","):
        for port in 443, 8443:
            start(api(address, port, tls, allowed).serve_forever)
        for port in 53, 443:
            udp = socket.socket(family(address), socket.SOCK_DGRAM)
            udp.bind((address, port))
            start(echo, udp)
    print("ready", flush=True)
    threading.Event().wait()


def start(work, *arguments):
    threading.Thread(target=work, args=arguments, daemon=True).start()


def family(address):
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def api(address, port, tls, allowed):
    class Api(BaseHTTPRequestHandler):
        def do_GET(self):
            caller = self.client_address[0]
            status, reason = (200, "pong") if caller in allowed else (403, "API_KEY_IP_ADDRESS_BLOCKED")
            body = json.dumps({"reason": reason, "callerIp": caller}).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    class Server(ThreadingTCPServer):
        allow_reuse_address = True
        daemon_threads = True
        address_family = family(address)

    server = Server((address, port), Api)
    server.socket = tls.wrap_socket(server.socket, server_side=True)
    return server


def echo(udp):
    while True:
        data, caller = udp.recvfrom(100)
        udp.sendto(data, caller)


main()
