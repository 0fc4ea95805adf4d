"""`sealway check --deep` on the machine: by root, and as a unit with the filters, the limits and the user of sealway.service.

The unit is made by the commands of docs/operate.md, run in the machine.
"""

import json
import re
from pathlib import Path

PAGE = Path(__file__).resolve().parents[2] / "docs/operate.md"
CHECK = "sealway check --deep"
# The clock of a test machine is its host's, and so is the limit on open files; a bare machine has the kernel's own settings for ports.
IGNORED = "--ignore T07 --ignore T08 --ignore T09"


class Deep:
    def examine(self):
        """Both find nothing on a machine that works, and the unit ends by itself, not by its filter."""
        found = self.machine.ask(f"{CHECK} --json {IGNORED} --config /etc/sealway/sealway.toml")
        checks = self.findings(found.stdout)
        self.check("check --deep by root finds nothing", found.returncode == 0 and checks == [], found.stdout + found.stderr)
        owner = self.machine.do("stat -L -c %u /var/log/sealway")
        command = re.search(r"```sh\n(sed .*?sealway-deep.*?)```", PAGE.read_text(), re.S)[1]
        done = self.machine.do(command.replace(CHECK, f"{CHECK} --json {IGNORED}"))
        line = next((line for line in reversed(done.splitlines()) if line.startswith("{")), "")
        self.check("check --deep under the unit's filters finds nothing", self.findings(line) == [], done)
        result = [self.machine.show("sealway-deep", name) for name in ("Result", "ExecMainStatus")]
        self.check("and ends by itself", result == ["success", "0"], result)
        skipped = [check["id"] for check in json.loads(line or '{"checks": []}')["checks"] if check["result"] == "skipped"]
        self.check("it leaves out the hop's files, which its user may not read, and what this trial ignores", skipped == ["T07", "T08", "T09", "T13"], skipped)
        same = self.machine.do("stat -L -c %u /var/log/sealway") == owner
        self.check("and leaves the service its folders", same and self.is_active(), owner)

    def findings(self, text):
        try:
            return [finding["code"] for finding in json.loads(text)["findings"]]
        except ValueError:
            return [f"no JSON: {text}"]
