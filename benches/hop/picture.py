"""Draws the figures of `latency` as SVG."""

from xml.sax.saxutils import escape

NAMES = {"agent, early": "agent, early 200", "agent, warm": "agent, early 200, dial.warm"}
OWN, OTHER, INK, GREY, PAPER = "#1A7F5A", "#AFB8C1", "#24292F", "#57606A", "#FFFFFF"
DARK = (f'[fill="{PAPER}"]{{fill:#0d1117}}[fill="{INK}"]{{fill:#e6edf3}}[fill="{GREY}"]{{fill:#9198a1}}[stroke="{GREY}"]{{stroke:#9198a1}}'
        f'[fill="{OWN}"]{{fill:#3fb98a}}[fill="{OTHER}"]{{fill:#4b535d}}')
LEFT, BAR, GAP, HEAD, COLUMN = 190, 14, 4, 34, 420


def draw(figures):
    """Of {round trip in ms: {place: {way: (to the 200, to the first byte)}}}: a column for each round trip."""
    first = next(iter(figures.values()))
    ways = [way for way in next(iter(first.values())) if way != "round trip"]
    group = HEAD + len(ways) * (BAR + GAP)
    width, height = LEFT + COLUMN * len(figures), 70 + len(first) * group + 10
    title = "Time to the first byte of a reply on a new TLS 1.3 connection"
    parts = [f'<svg width="{width}" height="{height}" viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg" role="img" '
             f'font-family="sans-serif">', f"<title>{title}</title>", f"<style>@media(prefers-color-scheme:dark){{{DARK}}}</style>",
             f'<rect width="{width}" height="{height}" fill="{PAPER}"/>', text(16, 24, title, 15),
             text(16, 46, "Shorter is sooner. The line is direct, without a proxy; beside each bar milliseconds and round trips.", 11, GREY)]
    for column, (milliseconds, places) in enumerate(figures.items()):
        left = LEFT + column * COLUMN
        scale = (COLUMN - 130) / max(found[way][1] for found in places.values() for way in ways)
        for row, (place, found) in enumerate(places.items()):
            top = 70 + row * group
            trip = found["round trip"][1]
            parts.append(text(left, top + 14, f"{milliseconds} ms to the provider, the proxy {place}", 12))
            for number, way in enumerate(ways):
                seconds = found[way][1]
                y = top + HEAD - 10 + number * (BAR + GAP)
                fill = OWN if way.split(",")[0] in ("sealway", "agent") else OTHER
                parts.append(f'<rect x="{left}" y="{y}" width="{seconds * scale:.1f}" height="{BAR}" fill="{fill}"/>')
                parts.append(text(left + seconds * scale + 6, y + 11, f"{seconds * 1e3:.0f} ms, {seconds / trip:.1f}", 11))
                if column == 0:
                    parts.append(text(LEFT - 8, y + 11, NAMES.get(way, way), 11, INK, "end"))
            x, y = left + found["direct"][1] * scale, top + HEAD - 12
            parts.append(f'<line x1="{x:.1f}" y1="{y}" x2="{x:.1f}" y2="{y + len(ways) * (BAR + GAP)}" stroke="{GREY}" stroke-dasharray="3 3"/>')
    return "\n".join(parts + ["</svg>", ""])


def text(x, y, words, size, fill=INK, anchor="start"):
    return f'<text x="{x:.1f}" y="{y}" font-size="{size}" fill="{fill}" text-anchor="{anchor}">{escape(words)}</text>'
