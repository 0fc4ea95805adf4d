"""Holds the bill of materials to its schema, to Cargo.lock and to the binaries: check_bill.py BILL BINARY…

What a binary says of itself in .dep-v0 has to be the bill; and every crate whose sources its line tables name has to be in
it, which does not rest on what any tool of Cargo's says. Changes nothing.
"""

import json
import re
import subprocess
import sys
import tomllib
import zlib
from pathlib import Path

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

TLS = {"rustls", "tokio-rustls", "ring", "openssl", "native-tls", "aws-lc-rs", "aws-lc-sys"}


def main(bill, *binaries):
    text = Path(bill).read_text()
    if fault := JsonStrictValidator(SchemaVersion.V1_5).validate_str(text):
        sys.exit(f"{bill}: {str(fault).splitlines()[0]}")
    bill = json.loads(text)
    root = bill["metadata"]["component"]
    crates = {(part["name"], part["version"]): part for part in [*bill["components"], root]}
    locked = {(crate["name"], crate["version"]): crate for crate in tomllib.loads(Path("Cargo.lock").read_text())["package"]}
    expect(len(crates) > 100, f"{len(crates)} crates")
    # The programs of the hop's package have TLS; the daemon has none.
    has_tls = bool(TLS & {name for name, _ in crates})
    expect(has_tls == (root["name"] == "sealway-hop"), "TLS in the daemon, or none in the hop")
    for crate, part in crates.items():
        expect(crate in locked, f"{crate} is not in Cargo.lock")
        sums = [entry["content"] for entry in part.get("hashes", [])]
        expect(sums == [entry for entry in [locked[crate].get("checksum")] if entry], f"{crate} has another checksum")
    for binary in binaries:
        said = section(binary)["packages"]
        here = {(package["name"], package["version"]) for package in said if package.get("kind") != "build"}
        expect(here == set(crates), f"{binary} says it has {sorted(here ^ set(crates))} or not")
        expect(all((package["name"], package["version"]) in locked for package in said), f"{binary} names what Cargo.lock has not")
        seen = sources(binary)
        expect(len(seen) > 50, f"{binary} names the sources of {len(seen)} crates")
        expect(seen <= {f"{name}-{version}" for name, version in crates}, f"{binary} has code of {sorted(seen)}")
        print(f"{binary}: {len(here)} crates, the bill's; sources of {len(seen)} of them in its line tables")


def section(binary):
    command = ["objcopy", "--dump-section", ".dep-v0=/dev/stdout", binary, "/dev/null"]
    return json.loads(zlib.decompress(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout))


def sources(binary):
    return {found.decode() for found in re.findall(rb"registry/src/[^/\0]+/([A-Za-z0-9_.+-]+)/src/", Path(binary).read_bytes())}


def expect(holds, what):
    if not holds:
        sys.exit(f"the bill of materials: {what}")


main(*sys.argv[1:])
