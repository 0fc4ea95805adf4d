"""Holds the manifests to one another and to the daemon: check_manifests.py FOLDER SEALWAY [MANIFESTS].

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


def main(folder, sealway, manifests="sealway.yaml"):
    folder = Path(folder)
    read = lambda name: list(yaml.safe_load_all((folder / name).read_text()))
    objects = {item["kind"]: item for item in read(manifests)}
    [monitor], [kustomization], [policy] = read("podmonitor.yaml"), read("kustomization.yaml"), read("networkpolicy.yaml")
    expect(kustomization["resources"] == ["sealway.yaml"], "the base does not consist of the manifests")
    config, secret, workload = objects["ConfigMap"], objects["Secret"], objects["DaemonSet"]["spec"]
    pod = workload["template"]
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
    selectors = [workload["selector"]["matchLabels"], monitor["spec"]["selector"]["matchLabels"], objects["Service"]["spec"]["selector"]]
    expect(all(selector.items() <= labels.items() for selector in selectors), "a selector misses the pod")
    expect(objects["Service"]["spec"]["ports"][0]["targetPort"] in ports, "the Service leads to no port of the pod")
    allowed = {port["port"] for rule in policy["spec"]["egress"] for port in rule["ports"]}
    expect(allowed == {ports["proxy"]["containerPort"], 53}, "the applications may reach another port than the tunnel's")
    rolling = workload["updateStrategy"]["rollingUpdate"]
    expect(workload["updateStrategy"]["type"] == "RollingUpdate" and rolling == {"maxUnavailable": 1, "maxSurge": 0}, "an update does not go from node to node")
    expect(pod["spec"]["hostNetwork"] and pod["spec"]["nodeSelector"], "the pod has no static address")
    image = container["image"].rsplit(":", 1)
    expect(kustomization["images"] == [{"name": image[0], "newTag": image[1]}], "the base names another image")
    loaded = tomllib.loads(text)
    expect(loaded["reload"]["watch"] and not any("subPath" in mount for mount in container["volumeMounts"]), "a changed Secret is not seen")
    expect(loaded["egress"]["floating"] == loaded["egress"]["addresses"], "a node reports the addresses of the others as missing")
    expect(loaded["timeouts"].get("drain_delay"), "the Service still leads to a pod that refuses")
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
        # A network of its own has no name server, and the second address is on another node.
        usual = ("sealway: dns: ", "sealway: warning: egress.floating: ")
        # The clients are in the cluster: networkpolicy.yaml admits no others.
        in_clear = ": listener.address: 0.0.0.0:9293 receives the users' credentials without TLS, "
        problems = [line for line in ended.stderr.splitlines()
                    if line.startswith("sealway: ") and not line.startswith(usual) and in_clear not in line]
        expect(ended.returncode in (0, 78) and not problems, f"sealway check: {ended.stderr}{ended.stdout}")


def expect(holds, what):
    if not holds:
        sys.exit(f"the manifests: {what}")


main(*sys.argv[1:])
