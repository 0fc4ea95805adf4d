"""A fake Gemini API: https, HTTP/1.1 and HTTP/2, one key that is restricted to one address.

Answers generateContent, streamGenerateContent (five events, 200 ms apart), the WebSocket of the live API (one message, one turn), the
gRPC method Models/GetModel and, to any other address than the allowed one, the 403 of a blocked key. Writes one JSON line for each request, with the address it came from, to standard output. Never looks at keys.

usage: gemini.py ADDRESS:PORT ALLOWED-ADDRESS CERTIFICATE-CHAIN KEY
"""
import asyncio
import json
import sys

from hypercorn.asyncio import serve
from hypercorn.config import Config

EVENTS = 5
EVENT_INTERVAL_S = 0.2


def main():
    bind, allowed, chain, key = sys.argv[1:]
    config = Config()
    config.bind, config.certfile, config.keyfile = [bind], chain, key
    config.alpn_protocols = ["h2", "http/1.1"]
    asyncio.run(serve(api(allowed), config))


def api(allowed):
    async def app(scope, receive, send):
        if scope["type"] == "lifespan":
            return await lifespan(receive, send)
        address, port = scope["client"]
        version = scope["http_version"]
        print(json.dumps({"peer": f"{address}:{port}", "http": version, "path": scope["path"]}), flush=True)
        if scope["type"] == "websocket":
            return await live(receive, send, address if address == allowed else None)
        while (await receive()).get("more_body"):
            pass
        if address != allowed:
            return await reply(send, 403, blocked(address))
        if scope["path"].endswith(":streamGenerateContent"):
            return await stream(send)
        if dict(scope["headers"]).get(b"content-type") == b"application/grpc":
            return await grpc(send, address)
        await reply(send, 200, candidate(f"pong over HTTP/{version} from {address}", "STOP"))

    return app


async def lifespan(receive, send):
    while True:
        step = (await receive())["type"]
        await send({"type": f"{step}.complete"})
        if step == "lifespan.shutdown":
            return


async def reply(send, status, content):
    body = json.dumps(content, indent=2).encode()
    headers = [(b"content-type", b"application/json; charset=UTF-8"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def stream(send):
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
    for number in range(EVENTS):
        last = number == EVENTS - 1
        event = json.dumps(candidate(f"word {number} ", "STOP" if last else None))
        await send({"type": "http.response.body", "body": f"data: {event}\r\n\r\n".encode(), "more_body": not last})
        if not last:
            await asyncio.sleep(EVENT_INTERVAL_S)


async def live(receive, send, address):
    """The session of a WebSocket; without an address it is refused."""
    await receive()
    if not address:
        return await send({"type": "websocket.close"})
    await send({"type": "websocket.accept"})
    await receive()
    await message(send, {"setupComplete": {}})
    await receive()
    turn = {"role": "model", "parts": [{"text": f"pong over WebSocket from {address}"}]}
    await message(send, {"serverContent": {"modelTurn": turn}})
    await message(send, {"serverContent": {"turnComplete": True}})
    while (await receive())["type"] != "websocket.disconnect":
        pass


async def message(send, content):
    await send({"type": "websocket.send", "bytes": json.dumps(content).encode()})


async def grpc(send, address):
    """A google.ai.generativelanguage.v1beta.Model whose field 1, the name, says where the request came from."""
    name = f"pong over gRPC from {address}".encode()
    model = b"\x0a" + bytes([len(name)]) + name
    headers = [(b"content-type", b"application/grpc")]
    await send({"type": "http.response.start", "status": 200, "headers": headers, "trailers": True})
    await send({"type": "http.response.body", "body": b"\0" + len(model).to_bytes(4, "big") + model})
    await send({"type": "http.response.trailers", "headers": [(b"grpc-status", b"0")]})


def candidate(text, finish):
    content = {"content": {"role": "model", "parts": [{"text": text}]}, "index": 0}
    if finish:
        content["finishReason"] = finish
    return {
        "candidates": [content],
        "usageMetadata": {"promptTokenCount": 3, "candidatesTokenCount": 2, "totalTokenCount": 5},
        "modelVersion": "gemini-2.5-flash",
        "responseId": "fake",
    }


def blocked(address):
    return {
        "error": {
            "code": 403,
            "message": "The provided API key has an IP address restriction. "
            f"The originating IP address of the call ({address}) violates this restriction.",
            "status": "PERMISSION_DENIED",
            "details": [
                {
                    "@type": "type.googleapis.com/google.rpc.ErrorInfo",
                    "reason": "API_KEY_IP_ADDRESS_BLOCKED",
                    "domain": "googleapis.com",
                }
            ],
        }
    }


main()
