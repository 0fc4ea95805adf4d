"""The Python clients, one a run, each used as its own manual says. Prints the reply and how the stream arrived.

Never names the proxy or the CA where the library reads HTTPS_PROXY and SSL_CERT_FILE by itself: reading them is part of what is
tested. An error is printed as its user would see it, with exit status 1.

usage: clients.py requests|httpx|httpx_h2|httpx_own_proxy|aiohttp|aiohttp_own_proxy|genai|genai_async|genai_live|litellm|langchain|grpc|grpc_call

CLIENT_CERTIFICATE and CLIENT_KEY: what to present to a proxy with TLS, in the way that the library has for it.
"""
import asyncio
import os
import socket
import ssl
import sys
import threading
import time

MODEL = "gemini-2.5-flash"
HOST = os.environ.get("API_HOST", "generativelanguage.googleapis.com")
URL = f"https://{HOST}/v1beta/models/{MODEL}"
UNARY = f"{URL}:generateContent"
STREAM = f"{URL}:streamGenerateContent?alt=sse"
TIMEOUT_S = 15


class Stream:
    """Notes when each event arrives."""

    def __init__(self):
        self.arrivals = []

    def event(self):
        self.arrivals.append(time.monotonic())

    def line(self, line):
        if line.startswith("data:"):
            self.event()

    def show(self):
        spread_ms = round((self.arrivals[-1] - self.arrivals[0]) * 1000) if self.arrivals else 0
        print(f"stream: {len(self.arrivals)} events over {spread_ms} ms")


def show_reply(body):
    print("reply:", body["candidates"][0]["content"]["parts"][0]["text"])


def proxy_context():
    """The TLS context for the proxy; None without a certificate."""
    if "CLIENT_CERTIFICATE" not in os.environ:
        return None
    context = ssl.create_default_context()
    context.load_cert_chain(os.environ["CLIENT_CERTIFICATE"], os.environ["CLIENT_KEY"])
    return context


def requests():
    import requests

    # requests has no setting for a certificate of the proxy's hop: an adapter of one's own hands it to urllib3.
    class Adapter(requests.adapters.HTTPAdapter):
        def proxy_manager_for(self, proxy, **keys):
            return super().proxy_manager_for(proxy, proxy_ssl_context=proxy_context(), **keys)

    with requests.Session() as session:
        session.mount("https://", Adapter())
        reply = session.post(UNARY, json={}, timeout=TIMEOUT_S)
        reply.raise_for_status()
        show_reply(reply.json())
        stream = Stream()
        with session.post(STREAM, json={}, stream=True, timeout=TIMEOUT_S) as reply:
            for line in reply.iter_lines(decode_unicode=True):
                stream.line(line)
        stream.show()


def httpx(http2=False):
    import httpx

    with httpx.Client(http2=http2, timeout=TIMEOUT_S) as client:
        httpx_talk(client)


def httpx_talk(client):
    reply = client.post(UNARY, json={}).raise_for_status()
    print(reply.http_version)
    show_reply(reply.json())
    stream = Stream()
    with client.stream("POST", STREAM, json={}) as reply:
        for line in reply.iter_lines():
            stream.line(line)
    stream.show()


def httpx_own_proxy():
    """httpx looks for the proxy's certificate in its own list of authorities, so the context is given."""
    import httpx

    context = proxy_context() or ssl.create_default_context()
    proxy = httpx.Proxy(os.environ["HTTPS_PROXY"], ssl_context=context)
    with httpx.Client(http2=True, proxy=proxy, timeout=TIMEOUT_S) as client:
        httpx_talk(client)


def httpx_h2():
    httpx(http2=True)


def aiohttp_own_proxy():
    """aiohttp ignores an https:// proxy of the environment and goes direct; one that is given it uses."""
    aiohttp(proxy=os.environ["HTTPS_PROXY"])


def aiohttp(proxy=None):
    import aiohttp

    async def talk():
        limit = aiohttp.ClientTimeout(total=TIMEOUT_S)
        # One context for both hops: the API may ask for the certificate too.
        connector = aiohttp.TCPConnector(ssl=proxy_context() or True)
        keys = {"trust_env": True, "proxy": proxy, "raise_for_status": True, "timeout": limit, "connector": connector}
        async with aiohttp.ClientSession(**keys) as session:
            async with session.post(UNARY, json={}) as reply:
                show_reply(await reply.json())
            stream = Stream()
            async with session.post(STREAM, json={}) as reply:
                async for line in reply.content:
                    stream.line(line.decode())
            stream.show()

    asyncio.run(talk())


def genai_client():
    from google import genai

    options = genai.types.HttpOptions(timeout=TIMEOUT_S * 1000)
    return genai.Client(api_key="fake", http_options=options)


def genai():
    with genai_client() as client:
        print("reply:", client.models.generate_content(model=MODEL, contents="ping").text)
        stream = Stream()
        for _ in client.models.generate_content_stream(model=MODEL, contents="ping"):
            stream.event()
        stream.show()


def genai_async():
    async def talk():
        async with genai_client().aio as client:
            print("reply:", (await client.models.generate_content(model=MODEL, contents="ping")).text)
            stream = Stream()
            async for _ in await client.models.generate_content_stream(model=MODEL, contents="ping"):
                stream.event()
            stream.show()

    asyncio.run(talk())


def genai_live():
    async def talk():
        async with genai_client().aio.live.connect(model=MODEL, config={"response_modalities": ["TEXT"]}) as session:
            await session.send_client_content(turns={"role": "user", "parts": [{"text": "ping"}]})
            async for message in session.receive():
                if message.text:
                    print("reply:", message.text)

    asyncio.run(asyncio.wait_for(talk(), TIMEOUT_S))


def litellm():
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
    import litellm

    ping = {"model": f"gemini/{MODEL}", "messages": [{"role": "user", "content": "ping"}], "api_key": "fake", "timeout": TIMEOUT_S}
    print("reply:", litellm.completion(**ping).choices[0].message.content)


def langchain():
    from langchain_google_genai import ChatGoogleGenerativeAI

    model = ChatGoogleGenerativeAI(model=MODEL, api_key="fake", timeout=TIMEOUT_S, max_retries=1)
    print("reply:", model.invoke("ping").text)


def grpc_call():
    """A method of the API. grpcio reads grpc_proxy and https_proxy, and its authorities from a variable of its own."""
    os.environ["GRPC_DEFAULT_SSL_ROOTS_FILE_PATH"] = os.environ["SSL_CERT_FILE"]
    import grpc

    with grpc.secure_channel(f"{HOST}:443", grpc.ssl_channel_credentials()) as channel:
        method = "/google.ai.generativelanguage.v1beta.ModelService/GetModel"
        # The answer begins with the tag and the length of the model's name.
        print("reply:", channel.unary_unary(method)(b"", timeout=TIMEOUT_S)[2:].decode())


def grpc():
    """Shows whether grpcio uses the proxy: a server of our own notes the first bytes that it gets."""
    import grpc

    os.environ["https_proxy"] = os.environ["HTTPS_PROXY"]
    first = []
    server = socket.create_server(("198.51.100.2", 0))

    def accept():
        connection, _ = server.accept()
        with connection:
            first.append(connection.recv(16))

    threading.Thread(target=accept, daemon=True).start()
    channel = grpc.secure_channel("198.51.100.2:%d" % server.getsockname()[1], grpc.ssl_channel_credentials())
    try:
        grpc.channel_ready_future(channel).result(timeout=5)
    except grpc.FutureTimeoutError:
        pass
    went = "the proxy was not used" if first and first[0].startswith(b"\x16\x03") else "nothing came without the proxy"
    sys.exit(went)


FUNCTIONS = (requests, httpx, httpx_h2, httpx_own_proxy, aiohttp, aiohttp_own_proxy, genai, genai_async, genai_live,
             litellm, langchain, grpc, grpc_call)
CLIENTS = {client.__name__: client for client in FUNCTIONS}

if __name__ == "__main__":
    try:
        CLIENTS[sys.argv[1]]()
    except Exception as error:  # whatever a library raises is what its user sees
        sys.exit(f"{type(error).__name__}: {error}")
