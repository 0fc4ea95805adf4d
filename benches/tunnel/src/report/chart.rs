//! The bar chart, drawn by plotters: a panel for each workload, a bar for each peer whose length is its ratio to the bare
//! loop, with the absolute value beside it. The file needs nothing else and follows the reader's colour scheme.

use std::error::Error;

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

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

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;
type Drawn = Result<(), Box<dyn Error>>;

/// Returns the chart as an SVG file.
///
/// # Errors
/// When plotters cannot draw; a chart in memory gives it no reason to.
pub(crate) fn chart(panels: &[Panel]) -> Result<String, Box<dyn Error>> {
    let bars_max = panels.iter().map(|panel| panel.bars.len()).max();
    let panel_px = TITLE_PX + bars_max.unwrap_or(0) as u32 * ROW_PX + GAP_PX;
    let rows = panels.len().div_ceil(COLUMNS);
    let size = (
        COLUMNS as u32 * PANEL_PX + GAP_PX,
        HEAD_PX + rows as u32 * panel_px,
    );
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        root.fill(&GROUND)?;
        let (head, body) = root.split_vertically(HEAD_PX);
        text(&head, HEADLINE, (GAP_PX as i32, 20), (15.0, INK))?;
        text(&head, NOTE, (GAP_PX as i32, 42), (11.0, FAINT))?;
        let body = body.margin(0, 0, GAP_PX, 0);
        let places = body.split_evenly((rows.max(1), COLUMNS));
        for (panel, place) in panels.iter().zip(&places) {
            panel.draw(place)?;
        }
        root.present()?;
    }
    let head = format!(" role=\"img\">\n<title>{HEADLINE}</title>\n<style>{DARK}</style>\n");
    Ok(svg.replacen(">\n", &head, 1))
}

impl Panel {
    fn draw(&self, place: &Area) -> Drawn {
        text(place, &self.title, (0, 14), (12.0, INK))?;
        let height_px = TITLE_PX + self.bars.len() as u32 * ROW_PX;
        let (place, _) = place.split_vertically(height_px);
        let rows = self.bars.len() as f64;
        let mut chart = ChartBuilder::on(&place)
            .margin_top(TITLE_PX)
            .margin_left(NAME_PX)
            .margin_right(PANEL_PX - NAME_PX - BAR_PX)
            .build_cartesian_2d(0.0..RATIO_MAX, rows..0.0)?;
        let own = |bar: &Bar| bar.name.starts_with("sealway");
        chart.draw_series(self.bars.iter().enumerate().map(|(at, bar)| {
            let corners = [(0.0, at as f64), (length(bar.ratio), at as f64 + 1.0)];
            let color = if own(bar) { OWN } else { OTHER };
            let mut bar = Rectangle::new(corners, color.filled());
            bar.set_margin(2, 3, 0, 0);
            bar
        }))?;
        let middle = |at: usize| at as f64 + 0.5;
        chart.draw_series(self.bars.iter().enumerate().map(|(at, bar)| {
            let style = style((11.0, INK)).pos(Pos::new(HPos::Right, VPos::Center));
            EmptyElement::at((0.0, middle(at))) + Text::new(bar.name.clone(), (-6, 0), style)
        }))?;
        chart.draw_series(self.bars.iter().enumerate().map(|(at, bar)| {
            let style = style((11.0, FAINT)).pos(Pos::new(HPos::Left, VPos::Center));
            let at = (length(bar.ratio), middle(at));
            EmptyElement::at(at) + Text::new(bar.value(), (6, 0), style)
        }))?;
        let bare = vec![(1.0, 0.0), (1.0, rows)];
        chart.draw_series([PathElement::new(bare, FAINT.stroke_width(1))])?;
        Ok(())
    }
}

impl Bar {
    /// The ratio and the absolute value; a bar that is cut says so.
    fn value(&self) -> String {
        let cut = if self.ratio > RATIO_MAX { "» " } else { "" };
        format!("{cut}{}× · {}", short(self.ratio), self.label)
    }
}

/// Linear, so that a bar twice as long costs twice as much; cut where one peer would dwarf all others.
fn length(ratio: f64) -> f64 {
    ratio.clamp(0.0, RATIO_MAX)
}

fn style((size_px, color): (f64, RGBColor)) -> TextStyle<'static> {
    ("sans-serif", size_px * PLOTTERS_PX)
        .into_font()
        .color(&color)
}

fn text(area: &Area, text: &str, at: (i32, i32), (size_px, color): (f64, RGBColor)) -> Drawn {
    let style = style((size_px, color)).pos(Pos::new(HPos::Left, VPos::Center));
    area.draw(&Text::new(text, at, style))?;
    Ok(())
}

const HEADLINE: &str = "CPU per unit of work by peer, relative to the bare loop (= 1)";
const NOTE: &str = "Shorter is cheaper. The line is the bare epoll and splice loop; beside each bar its ratio and the \
                    absolute cost. A bar marked » is cut.";

const GROUND: RGBColor = RGBColor(0xff, 0xff, 0xff);
const INK: RGBColor = RGBColor(0x24, 0x29, 0x2f);
const FAINT: RGBColor = RGBColor(0x57, 0x60, 0x6a);
const OWN: RGBColor = RGBColor(0x1a, 0x7f, 0x5a);
const OTHER: RGBColor = RGBColor(0xaf, 0xb8, 0xc1);
/// What each colour above becomes on a dark ground; plotters writes colours as attributes in capitals.
const DARK: &str = "@media(prefers-color-scheme:dark){[fill=\"#FFFFFF\"]{fill:#0d1117}[fill=\"#24292F\"]{fill:#e6edf3}\
[fill=\"#57606A\"]{fill:#9198a1}[stroke=\"#57606A\"]{stroke:#9198a1}[fill=\"#1A7F5A\"]{fill:#3fb98a}\
[fill=\"#AFB8C1\"]{fill:#4b535d}}";

/// plotters divides the size of a font by this when it writes SVG.
const PLOTTERS_PX: f64 = 1.24;

const COLUMNS: usize = 2;
const RATIO_MAX: f64 = 5.0;
const PANEL_PX: u32 = 520;
const NAME_PX: u32 = 110;
const BAR_PX: u32 = 230;
const ROW_PX: u32 = 18;
const TITLE_PX: u32 = 28;
const GAP_PX: u32 = 16;
const HEAD_PX: u32 = 60;

#[cfg(test)]
mod tests {
    use super::*;

    fn bar(name: &str, ratio: f64) -> Bar {
        Bar {
            name: name.into(),
            ratio,
            label: "1 µs & more".into(),
        }
    }

    #[test]
    fn a_bar_is_as_long_as_its_ratio_until_it_is_cut() {
        let panel = Panel {
            title: "a < b".into(),
            bars: vec![bar("sealway", 2.0), bar("bare", 1.0), bar("other", 9.0)],
        };
        let svg = chart(&[panel]).unwrap_or_default();
        let widths = |color: &str| -> Vec<u32> {
            let bars = svg.lines().filter(|line| line.contains(color));
            bars.filter_map(|line| {
                line.split("width=\"")
                    .nth(1)?
                    .split('"')
                    .next()?
                    .parse()
                    .ok()
            })
            .collect()
        };
        let (own, others) = (
            widths("fill=\"#1A7F5A\" stroke"),
            widths("fill=\"#AFB8C1\" stroke"),
        );
        let near = |px: &u32, expected: u32| px.abs_diff(expected) <= 1;
        assert!(matches!(own.as_slice(), [px] if near(px, 2 * BAR_PX / 5)));
        assert!(
            matches!(others.as_slice(), [one, cut] if near(one, BAR_PX / 5) && near(cut, BAR_PX)),
            "{others:?}"
        );
        assert!(svg.contains("» 9.00× · 1 µs &amp; more") && svg.contains("a &lt; b"));
        for color in [INK, FAINT, OWN, OTHER, GROUND] {
            let RGBColor(red, green, blue) = color;
            let name = format!("\"#{red:02X}{green:02X}{blue:02X}\"");
            assert!(
                svg.matches(&name).count() > 1,
                "{name} has no dark colour, or no use"
            );
        }
    }

    #[test]
    fn nothing_is_a_chart_too() {
        assert!(chart(&[]).is_ok_and(|svg| svg.ends_with("</svg>\n")));
    }
}
