"""The Python clients, one a run, each used as its own manual says. Prints the reply and how the stream arrived.

Never names the proxy or the CA where the library reads HTTPS_PROXY and SSL_CERT_FILE by itself: reading them is part of what is
tested. An error is printed as its user would see it, with exit status 1.

usage: clients.py requests|httpx|httpx_h2|aiohttp|genai|genai_async
"""
import asyncio
import os
import sys
import time

MODEL = "gemini-2.5-flash"
URL = f"https://{os.environ.get('API_HOST', 'generativelanguage.googleapis.com')}/v1beta/models/{MODEL}"
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


def requests():
    import requests

    with requests.Session() as session:
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
        show_reply(client.post(UNARY, json={}).raise_for_status().json())
        stream = Stream()
        with client.stream("POST", STREAM, json={}) as reply:
            for line in reply.iter_lines():
                stream.line(line)
        stream.show()


def httpx_h2():
    httpx(http2=True)


def aiohttp():
    import aiohttp

    async def talk():
        limit = aiohttp.ClientTimeout(total=TIMEOUT_S)
        async with aiohttp.ClientSession(trust_env=True, raise_for_status=True, timeout=limit) as session:
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


CLIENTS = {client.__name__: client for client in (requests, httpx, httpx_h2, aiohttp, genai, genai_async)}

try:
    CLIENTS[sys.argv[1]]()
except Exception as error:  # whatever a library raises is what its user sees
    sys.exit(f"{type(error).__name__}: {error}")
