"""The client of .NET: HttpClient of .NET Core 3.1, which reads HTTPS_PROXY and SSL_CERT_FILE by itself. Prints the reply and how the
stream arrived. An error is printed as its user would see it, with exit status 1.

Debian has no .NET, so the runtime comes from PyPI (dotnetcore2) and Python drives it (pythonnet). It needs OpenSSL 1.1, which Debian
has no more either: psycopg2-binary 2.9.6 carries one. Never hands a proxy or an authority to the client.

usage: dotnet.py HTTP-VERSION
"""
import importlib.util
import json
import os
import sys
import tempfile
from pathlib import Path

from clients import STREAM, TIMEOUT_S, UNARY, Stream, show_reply

RUNTIME = {
    "runtimeOptions": {
        "tfm": "netcoreapp3.1",
        "framework": {"name": "Microsoft.NETCore.App", "version": "3.1.0"},
        # Debian's ICU is too new for it.
        "configProperties": {"System.Globalization.Invariant": True},
    }
}


def main():
    if "OPENSSL_1_1" not in os.environ:
        with_openssl(sys.argv)
    with tempfile.TemporaryDirectory() as folder:
        load(Path(folder) / "runtimeconfig.json")
    talk(sys.argv[1])


def package(name):
    return Path(importlib.util.find_spec(name).origin).parent


def with_openssl(words):
    """Starts this program again where .NET finds OpenSSL under the names that it looks for."""
    libraries = package("psycopg2").parent / "psycopg2_binary.libs"
    links = Path(tempfile.mkdtemp())
    for name in ("libssl", "libcrypto"):
        (links / f"{name}.so.1.1").symlink_to(next(libraries.glob(f"{name}-*.so.1.1")))
    os.environ |= {"OPENSSL_1_1": str(links), "LD_LIBRARY_PATH": f"{links}:{libraries}"}
    status = os.spawnv(os.P_WAIT, sys.executable, [sys.executable, *words])
    for link in links.iterdir():
        link.unlink()
    links.rmdir()
    sys.exit(status)


def load(settings):
    import pythonnet

    settings.write_text(json.dumps(RUNTIME))
    pythonnet.load("coreclr", dotnet_root=str(package("dotnetcore2") / "bin"), runtime_config=str(settings))


def talk(version):
    import clr

    clr.AddReference("System.Net.Http")
    from System import AggregateException, Environment, TimeSpan, Version
    from System.IO import StreamReader
    from System.Net.Http import HttpClient, HttpCompletionOption, HttpMethod, HttpRequestMessage, StringContent
    from System.Text import Encoding

    def post(url):
        request = HttpRequestMessage(HttpMethod.Post, url)
        request.Version = Version(version)
        request.Content = StringContent("{}", Encoding.UTF8, "application/json")
        reply = client.SendAsync(request, HttpCompletionOption.ResponseHeadersRead).Result
        return reply.EnsureSuccessStatusCode()

    client = HttpClient()
    client.Timeout = TimeSpan.FromSeconds(TIMEOUT_S)
    try:
        reply = post(UNARY)
        print(f".NET {Environment.Version}, HTTP/{reply.Version}")
        show_reply(json.loads(reply.Content.ReadAsStringAsync().Result))
        stream, lines = Stream(), StreamReader(post(STREAM).Content.ReadAsStreamAsync().Result)
        while (line := lines.ReadLine()) is not None:
            stream.line(line)
        stream.show()
    except AggregateException as error:
        sys.exit(error.InnerException.ToString().splitlines()[0])


main()
