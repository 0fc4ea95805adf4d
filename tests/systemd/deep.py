"""`sealway check --deep` on the machine: by root, and as a unit with the filters, the limits and the user of sealway.service.

The unit is made by the commands of docs/operate.md, run in the machine.
"""

import json
import re
from pathlib import Path

PAGE = Path(__file__).resolve().parents[2] / "docs/operate.md"
CHECK = "sealway check --deep"
# The limit on open files of a test machine is its host's; a bare machine has the kernel's own settings for ports.
IGNORED = "--ignore T07 --ignore T08"
# The clock is the host's too. The unit may not ask for its state (ProtectClock), so there it is no finding either.
BY_ROOT = f"{IGNORED} --ignore T09"


class Deep:
    def examine(self):
        """Both find nothing on a machine that works, and the unit ends by itself, not by its filter."""
        found = self.machine.ask(f"{CHECK} --json {BY_ROOT} --config /etc/sealway/sealway.toml")
        checks = self.findings(found.stdout)
        self.check("check --deep by root finds nothing", found.returncode == 0 and checks == [], found.stdout + found.stderr)
        owner = self.machine.do("stat -L -c %u /var/log/sealway")
        command = re.search(r"```sh\n(sed .*?sealway-deep.*?)```", PAGE.read_text(), re.S)[1]
        done = self.machine.do(command.replace(CHECK, f"{CHECK} --json {IGNORED}"))
        line = next((line for line in reversed(done.splitlines()) if line.startswith("{")), "")
        self.check("check --deep under the unit's filters finds nothing", self.findings(line) == [], done)
        result = [self.machine.show("sealway-deep", name) for name in ("Result", "ExecMainStatus")]
        self.check("and ends by itself", result == ["success", "0"], result)
        skipped = {check["id"]: check["reason"] for check in json.loads(line or '{"checks": []}')["checks"] if check["result"] == "skipped"}
        self.check("it leaves out the clock, the hop's files, and what this trial ignores", list(skipped) == ["T07", "T08", "T09", "T13"], skipped)
        self.check("and says that a filter forbids it to ask for the clock", skipped.get("T09") == "a filter forbids adjtimex", skipped)
        same = self.machine.do("stat -L -c %u /var/log/sealway") == owner
        self.check("and leaves the service its folders", same and self.is_active(), owner)

    def commands_of_findings(self):
        """The printed commands that need a service manager run, except those for a unit that is not here."""
        lines = set()
        for page in ("operate.md", "doctor.md"):
            for part in re.findall(r"<!-- generated: .*?<!-- end -->", PAGE.with_name(page).read_text(), re.S):
                lines.update(re.findall(r"^ *((?:systemctl|journalctl) .*)$", part, re.M))
        lines.discard("systemctl reload sealway-hop")
        self.check("the findings have commands for a service manager", len(lines) >= 3, lines)
        for line in sorted(lines):
            ran = self.machine.ask(line)
            self.check(f"{line} runs", ran.returncode == 0, ran.stdout + ran.stderr)

    def findings(self, text):
        try:
            return [finding["code"] for finding in json.loads(text)["findings"]]
        except ValueError:
            return [f"no JSON: {text}"]
