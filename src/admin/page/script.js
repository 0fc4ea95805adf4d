"use strict";
// Reads /status once a second and shows it. What comes from there is set as text, never as markup: names in it are
// chosen by strangers. The token lives in this variable only.
let token = "";
let wait = 1;
let next = 0;
let asking = false;
const samples = [];
const shown = new Map();
const $ = (id) => document.getElementById(id);

function make(tag, name, ...inside) {
  const made = document.createElement(tag);
  if (name) made.className = name;
  made.append(...inside);
  return made;
}

function say(id, text) {
  if ($(id).textContent !== text) $(id).textContent = text;
}

function data(id, value, text) {
  $(id).value = String(value);
  say(id, text);
}

const count = (number) => number.toLocaleString("en");

function bytes(number) {
  const units = ["B", "kB", "MB", "GB", "TB", "PB"];
  let unit = 0;
  while (number >= 999.5 && unit < units.length - 1) {
    number /= 1000;
    unit += 1;
  }
  return `${number >= 99.5 || unit === 0 ? Math.round(number) : number.toFixed(1)} ${units[unit]}`;
}

function duration(seconds) {
  let rest = Math.floor(seconds);
  const parts = [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]].map(([unit, size]) => {
    const whole = Math.floor(rest / size);
    rest %= size;
    return `${whole} ${unit}`;
  });
  const first = parts.findIndex((part) => !part.startsWith("0 "));
  return first < 0 ? "0 s" : parts.slice(first, first + 2).join(" ");
}

function time(ts, withDate) {
  const made = make("time", "");
  const at = new Date(ts);
  const [date, hour] = [at.toLocaleDateString("en-CA"), at.toLocaleTimeString("en-GB")];
  made.dateTime = ts;
  made.title = ts;
  made.textContent = withDate ? `${date} ${hour}` : hour;
  return made;
}

// Makes the children anew only when what they show has changed: whoever has the focus or a selection in them keeps it.
function list(id, items, of) {
  const key = JSON.stringify(items);
  if (shown.get(id) === key) return;
  shown.set(id, key);
  $(id).replaceChildren(...items.map(of));
}

function state(name, text) {
  $("state").dataset.state = name;
  say("state", text);
  document.title = name === "ready" ? "Sealway" : `${text} – Sealway`;
}

function notices(items) {
  list("notices", items, (item) => make("div", `notice ${item.kind}`, make("strong", "", item.title), item.text));
}

async function copy(text) {
  let done = false;
  try {
    await navigator.clipboard.writeText(text);
    done = true;
  } catch {
    // Off loopback without TLS a page has no clipboard of its own.
    const area = make("textarea", "skip");
    const focused = document.activeElement;
    area.value = text;
    document.body.append(area);
    area.select();
    done = document.execCommand("copy");
    area.remove();
    focused?.focus();
  }
  say("copied", done ? `Copied ${text}` : "Could not copy: select the address and copy it");
}

function address(source) {
  if (source.behind) {
    const item = make("li", "", make("p", "quiet", `NAT maps ${source.address} on this host to an address above.`));
    if (!source.up) item.append(make("p", "warn", `${source.address} is not on this host now: no tunnel leaves from it.`));
    return item;
  }
  const button = make("button", "", "Copy");
  button.type = "button";
  button.setAttribute("aria-label", `Copy ${source.address}`);
  button.addEventListener("click", () => copy(source.address));
  const item = make("li", "", make("span", "mono", source.address), button);
  if (!source.up) item.append(make("p", "warn", "Not on this host now: no tunnel leaves from it."));
  if (source.not_global) {
    item.append(make("p", "quiet", `Not a public address: ${source.not_global}. Put the one that NAT maps it to on the allowlist, and into egress.public.`));
  }
  return item;
}

// Behind NAT the public addresses, and beneath them those on this host without a button.
function forTheAllowlist({ egress, egress_public: shown }) {
  if (!shown.length) return egress.map(({ address, up, not_global }) => ({ address, up, not_global }));
  return [...shown.map((address) => ({ address, up: true })), ...egress.map(({ address, up }) => ({ address, up, behind: true }))];
}

function denial(item) {
  const number = make("div", "count", count(item.recent), make("small", "", `${count(item.total)} in all`));
  const entry = make("li", item.recent ? "" : "old", number,
    make("div", "", make("div", "code", item.code), make("div", "", `${sentence(item.cause)}.`), make("div", "quiet", `What to do: ${item.cure}.`)));
  entry.id = anchor(item.code);
  return entry;
}

const anchor = (code) => `code-${code}`;

// The code leads to its cause and cure on this page.
function linked(code) {
  if (!$(anchor(code))) return code;
  const link = make("a", "", code);
  link.href = `#${encodeURIComponent(anchor(code))}`;
  return link;
}

const sentence = (text) => text.charAt(0).toUpperCase() + text.slice(1);

function user(item) {
  const of = item.tunnels_max === null ? "not in the users file any more" : `of ${count(item.tunnels_max)}`;
  const bar = make("i", "");
  bar.style.inlineSize = `${Math.min(100, (100 * item.tunnels) / (item.tunnels_max || item.tunnels))}%`;
  return make("li", "", make("div", "name", make("b", "", item.name), make("span", "", `${bytes(item.bytes)} · ${count(item.tunnels)} ${of}`)), make("div", "bar", bar));
}

function refusal(item) {
  const host = item.host ? `${item.host}:${item.port}` : "";
  const sni = item.sni && item.sni !== item.host ? `SNI ${item.sni}` : "";
  const detail = [item.count > 1 ? `${count(item.count)} times` : "", item.user ? `user ${item.user}` : "", sni, item.error ?? ""].filter(Boolean).join(" · ");
  return make("tr", "", make("td", "", time(item.ts)), ...[linked(item.code), host, item.client, detail].map((text) => make("td", "", text)));
}

function chart(throughput) {
  samples.push([throughput.up_bytes_per_second, throughput.down_bytes_per_second]);
  if (samples.length > 61) samples.shift();
  const top = Math.max(1, ...samples.flat());
  const x = (at) => 61 - samples.length + at;
  const line = (side) => samples.map((sample, at) => `${at ? "L" : "M"}${x(at)} ${(19 - (17.5 * sample[side]) / top).toFixed(2)}`).join("");
  const [area, down, up] = $("chart").children;
  down.setAttribute("d", line(1));
  up.setAttribute("d", line(0));
  area.setAttribute("d", `${line(1)}L${x(samples.length - 1)} 20L${x(0)} 20Z`);
}

function show(report) {
  const { tunnels, totals, throughput, users, denials, last_reload: reload } = report;
  state(report.not_ready.length ? "not-ready" : "ready", report.not_ready.length ? "Not ready" : "Ready");
  const reasons = report.not_ready.map((text) => ({ kind: "", title: "Not ready for new tunnels", text: sentence(text) }));
  reasons.push(...(report.degraded ?? []).map((text) => ({ kind: "", title: "Degraded; new tunnels are carried", text: sentence(text) })));
  if (reload?.result === "failed") {
    reasons.push({ kind: "bad", title: "The last reload was refused; the configuration before it is in force", text: reload.error });
  }
  notices(reasons);
  say("about", `Up for ${duration(report.uptime_seconds)}`);
  list("addresses", forTheAllowlist(report), address);
  data("active", tunnels.active, count(tunnels.active));
  data("max", tunnels.max, count(tunnels.max));
  $("active-bar").style.inlineSize = `${(100 * tunnels.active) / tunnels.max}%`;
  for (const name of ["opened", "closed", "denied"]) data(name, totals[name], count(totals[name]));
  data("rate-up", throughput.up_bytes_per_second, `${bytes(throughput.up_bytes_per_second)}/s`);
  data("rate-down", throughput.down_bytes_per_second, `${bytes(throughput.down_bytes_per_second)}/s`);
  data("bytes-up", totals.bytes_up, bytes(totals.bytes_up));
  data("bytes-down", totals.bytes_down, bytes(totals.bytes_down));
  const moved = totals.bytes_spliced + totals.bytes_copied;
  data("spliced", totals.bytes_spliced, moved ? `${Math.floor((100 * totals.bytes_spliced) / moved)} %` : "–");
  chart(throughput);
  list("denials", denials, denial);
  say("denials-title", `Refusals of the last ${report.denials_minutes} minutes, and what to do`);
  say("denials-none", denials.length ? "" : "None. Every attempt so far got its tunnel.");
  list("users", users?.busiest ?? [], user);
  say("users-none", noUsers(users));
  list("refusals", report.refusals, refusal);
  $("refusals-none").hidden = report.refusals.length > 0;
  $("refusals-box").hidden = report.refusals.length === 0;
  say("version", `${report.version} (${report.revision})`);
  say("uptime", duration(report.uptime_seconds));
  say("mode", report.policy.mode === "report" ? "reported only, not enforced" : "enforced");
  say("policy", report.policy.hash);
  list("reload", [reload], (item) => item ? make("span", "", `${item.result}, `, time(item.ts, true)) : "none since the start");
  $("content").hidden = false;
}

function noUsers(users) {
  if (!users) return "No credentials are required: auth.users_file is not set.";
  const more = users.active > users.busiest.length ? ` The ${users.busiest.length} with the most are shown.` : "";
  if (users.active) return `${count(users.active)} of ${count(users.configured)} users have a tunnel.${more}`;
  return `None of the ${count(users.configured)} users has a tunnel now.`;
}

async function ask() {
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  const answer = await fetch("status", { headers, cache: "no-store", signal: AbortSignal.timeout(5000) });
  if (answer.status === 401) return null;
  if (!answer.ok) throw new Error(`the answer was ${answer.status}`);
  return answer.json();
}

function locked() {
  state("waiting", "Locked");
  notices([]);
  say("refused", token ? "That is not the token." : "");
  token = "";
  $("content").hidden = true;
  if ($("door").hidden) {
    $("door").hidden = false;
    $("token").focus();
  }
}

// One at a time; a daemon that does not answer is asked again, at most every five seconds.
async function live() {
  if (asking) return;
  asking = true;
  clearTimeout(next);
  try {
    const report = await ask();
    wait = 1;
    $("content").classList.remove("stale");
    if (report === null) return locked();
    $("door").hidden = true;
    show(report);
  } catch {
    wait = Math.min(wait + 1, 5);
    state("gone", "Disconnected");
    const known = $("content").hidden ? "" : " What is shown below is old.";
    notices([{ kind: "bad", title: "The daemon does not answer", text: `It may be stopped or restarting. Trying again every few seconds.${known}` }]);
    $("content").classList.add("stale");
  } finally {
    asking = false;
  }
  next = setTimeout(live, wait * 1000);
}

$("door").addEventListener("submit", (event) => {
  event.preventDefault();
  token = $("token").value.trim();
  $("token").value = "";
  live();
});
document.addEventListener("visibilitychange", () => {
  if (!document.hidden && $("door").hidden) live();
});
live();
