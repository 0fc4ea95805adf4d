"""Holds the manifests to one another and to the daemon: check_manifests.py MANIFESTS PODMONITOR SEALWAY.

The configuration in the ConfigMap, with the secrets at hand and the addresses on a network of its own, has to be one that
`sealway check` takes; the pod has to have time to drain; names that one object has of another have to exist.
"""

import os
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

import yaml

TOKEN = "0123456789abcdef" * 4
# What else the machine of the pod has.
MACHINE = "ip link set lo up && ip address add 203.0.113.7/32 dev lo && exec \"$@\""


def main(manifests, monitor, sealway):
    objects = {item["kind"]: item for item in yaml.safe_load_all(Path(manifests).read_text())}
    monitor = yaml.safe_load(Path(monitor).read_text())
    config, secret, pod = objects["ConfigMap"], objects["Secret"], objects["Deployment"]["spec"]["template"]
    container = pod["spec"]["containers"][0]
    text = config["data"]["sealway.toml"]
    check_configuration(text, secret["stringData"], sealway)

    timeouts = tomllib.loads(text)["timeouts"]
    drain = sum(int(timeouts.get(name, "0s").removesuffix("s")) for name in ("drain", "drain_delay"))
    expect(pod["spec"]["terminationGracePeriodSeconds"] > drain, "the pod is killed before it has drained")
    ports = {port["name"]: port for port in container["ports"]}
    expect(all(port["hostPort"] == port["containerPort"] for port in ports.values()), "another port on the host than in the pod")
    listens = {address.rsplit(":", 1)[1] for address in [tomllib.loads(text)["listener"][0]["address"], tomllib.loads(text)["admin"]["address"]]}
    expect(listens == {str(port["containerPort"]) for port in ports.values()}, "it listens elsewhere than the pod says")
    probes = [container[name]["httpGet"] for name in ("startupProbe", "livenessProbe", "readinessProbe")]
    admin = tomllib.loads(text)["admin"]
    host = admin["address"].rsplit(":", 1)[0]
    expect(host == "127.0.0.1" or admin.get("clients"), "the admin port is shown to the world")
    expect(all(probe.get("host") == "127.0.0.1" for probe in probes), "a probe does not ask at loopback")
    user = pod["spec"]["securityContext"]["runAsUser"]
    expect(user >= 10_000 and user not in (65532, 65534), "the user is one that other images have too")
    endpoint = monitor["spec"]["podMetricsEndpoints"][0]
    expect({probe["port"] for probe in probes} | {endpoint["port"]} == {"admin"}, "a probe asks another port than admin")
    labels = pod["metadata"]["labels"]
    selectors = [objects["Deployment"]["spec"]["selector"], monitor["spec"]["selector"]]
    expect(all(selector["matchLabels"].items() <= labels.items() for selector in selectors), "a selector misses the pod")
    credentials = endpoint["authorization"]["credentials"]
    expect(credentials["name"] == secret["metadata"]["name"] and credentials["key"] in secret["stringData"], "no such token")
    volumes = {volume["name"]: volume for volume in pod["spec"]["volumes"]}
    expect(volumes["config"]["configMap"]["name"] == config["metadata"]["name"], "no such ConfigMap")
    expect(volumes["secrets"]["secret"]["secretName"] == secret["metadata"]["name"], "no such Secret")
    expect({mount["name"] for mount in container["volumeMounts"]} == set(volumes), "a volume that is mounted nowhere")
    expect(len({item["metadata"].get("namespace", "sealway") for item in [*objects.values(), monitor]}) == 1, "two namespaces")
    print("the manifests fit together, and their configuration is one")


def check_configuration(text, secrets, sealway):
    with tempfile.TemporaryDirectory() as folder:
        for name, value in {**secrets, "admin.token": TOKEN}.items():
            path = Path(folder, name)
            path.write_text(value)
            path.chmod(0o440)
        config = Path(folder, "sealway.toml")
        config.write_text(text.replace("/run/sealway/secrets", folder))
        command = ["unshare", "--net", "sh", "-c", MACHINE, "sh", os.path.abspath(sealway), "check", "--config", str(config)]
        ended = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        # A network of its own has no name server.
        problems = [line for line in ended.stderr.splitlines() if line.startswith("sealway: ") and not line.startswith("sealway: dns: ")]
        expect(ended.returncode in (0, 78) and not problems, f"sealway check: {ended.stderr}{ended.stdout}")


def expect(holds, what):
    if not holds:
        sys.exit(f"the manifests: {what}")


main(*sys.argv[1:])
