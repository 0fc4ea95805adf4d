//! A bar chart by hand: panels of horizontal bars, each bar a ratio to the bare loop, with the absolute value beside it.
//! Self-contained, readable on light and dark ground. Knows nothing of benchmarks.

use crate::measure::statistics::short;

/// The bars of one workload.
pub(crate) struct Panel {
    pub(crate) title: String,
    pub(crate) bars: Vec<Bar>,
}

/// One peer.
pub(crate) struct Bar {
    pub(crate) name: String,
    pub(crate) ratio: f64,
    pub(crate) label: String,
}

/// The whole file.
pub(crate) fn chart(panels: &[Panel]) -> String {
    let bars_max = panels
        .iter()
        .map(|panel| panel.bars.len())
        .max()
        .unwrap_or(0);
    let panel_height = TITLE_PX + bars_max as f64 * ROW_PX + GAP_PX;
    let height = HEAD_PX + panels.len().div_ceil(COLUMNS) as f64 * panel_height;
    let width = COLUMNS as f64 * PANEL_PX + GAP_PX;
    let body = panels.iter().enumerate().map(|(at, panel)| {
        let (x, y) = (
            (at % COLUMNS) as f64 * PANEL_PX + GAP_PX,
            (at / COLUMNS) as f64 * panel_height + HEAD_PX,
        );
        panel.draw(x, y)
    });
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" \
         height=\"{height}\" role=\"img\">\n<title>{HEADLINE}</title>\n<style>{STYLE}</style>\n\
         <rect class=\"ground\" width=\"{width}\" height=\"{height}\"/>\n\
         <text class=\"head\" x=\"{GAP_PX}\" y=\"26\">{HEADLINE}</text>\n\
         <text class=\"note\" x=\"{GAP_PX}\" y=\"44\">{NOTE}</text>\n{}</svg>\n",
        body.collect::<String>()
    )
}

impl Panel {
    fn draw(&self, x: f64, y: f64) -> String {
        let bars = self
            .bars
            .iter()
            .enumerate()
            .map(|(at, bar)| bar.draw(x, y + TITLE_PX + at as f64 * ROW_PX));
        let (one, top) = (x + NAME_PX + length_px(1.0), y + TITLE_PX - 2.0);
        let bottom = top + self.bars.len() as f64 * ROW_PX + 2.0;
        format!(
            "<text class=\"title\" x=\"{x}\" y=\"{:.1}\">{}</text>\n{}\
             <line x1=\"{one:.1}\" y1=\"{top:.1}\" x2=\"{one:.1}\" y2=\"{bottom:.1}\"/>\n",
            y + TITLE_PX - 9.0,
            escaped(&self.title),
            bars.collect::<String>(),
        )
    }
}

impl Bar {
    fn draw(&self, x: f64, y: f64) -> String {
        let (start, length, baseline) = (x + NAME_PX, length_px(self.ratio), y + ROW_PX - 6.0);
        let class = if self.name.starts_with("sealway") {
            "own"
        } else {
            "other"
        };
        // A bar that is cut says so.
        let cut = if self.ratio > RATIO_MAX { "» " } else { "" };
        format!(
            "<text class=\"{class}-name\" x=\"{:.1}\" y=\"{baseline:.1}\" text-anchor=\"end\">{}</text>\n\
             <rect class=\"{class}\" x=\"{start:.1}\" y=\"{:.1}\" width=\"{length:.1}\" height=\"{:.1}\" rx=\"1.5\"/>\n\
             <text class=\"value\" x=\"{:.1}\" y=\"{baseline:.1}\">{cut}{}× · {}</text>\n",
            start - 6.0,
            escaped(&self.name),
            y + 2.0,
            ROW_PX - 5.0,
            start + length + 6.0,
            short(self.ratio),
            escaped(&self.label),
        )
    }
}

/// Linear, so that a bar twice as long costs twice as much; cut where one peer would dwarf all others.
fn length_px(ratio: f64) -> f64 {
    ratio.clamp(0.0, RATIO_MAX) / RATIO_MAX * BAR_PX
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

const HEADLINE: &str = "CPU per unit of work by peer, relative to the bare loop (= 1)";
const NOTE: &str = "Shorter is cheaper. The line is the bare epoll and splice loop; beside each bar its ratio and the \
                    absolute cost. A bar marked » is cut.";
const STYLE: &str = "text{font:11px system-ui,sans-serif;fill:#24292f}.head{font-size:15px;font-weight:600}\
.title{font-size:12px;font-weight:600}.note,.value{fill:#57606a}.own-name{font-weight:600}.ground{fill:#fff}\
.own{fill:#1a7f5a}.other{fill:#afb8c1}line{stroke:#57606a;stroke-dasharray:3 3}\
@media(prefers-color-scheme:dark){text{fill:#e6edf3}.note,.value{fill:#9198a1}.ground{fill:#0d1117}\
.own{fill:#3fb98a}.other{fill:#4b535d}line{stroke:#9198a1}}";

const COLUMNS: usize = 2;
const RATIO_MAX: f64 = 5.0;
const PANEL_PX: f64 = 520.0;
const NAME_PX: f64 = 110.0;
const BAR_PX: f64 = 230.0;
const ROW_PX: f64 = 18.0;
const TITLE_PX: f64 = 28.0;
const GAP_PX: f64 = 16.0;
const HEAD_PX: f64 = 60.0;
