//! `--plot`: latency against throughput, as an SVG picture.
//!
//! Input: points of throughput and percentiles, one per number of clients. Output: the text of the file.
//! Both axes are logarithmic, as a sweep doubles its clients. Colours and text are chosen to be read on
//! white and, where a viewer says that it is dark, on black. Refused: nothing; a point without an answer is
//! left out.

use std::fmt::Write as _;

/// Size of the picture, and the space that its axes leave to the lines.
const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 460.0;
const LEFT: f64 = 80.0;
const RIGHT: f64 = 740.0;
const TOP: f64 = 60.0;
const BOTTOM: f64 = 400.0;

/// One number of clients.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PlotPoint {
    /// How many.
    pub clients: u32,
    /// Operations per second.
    pub per_second: f64,
    /// Median, in microseconds.
    pub p50_us: f64,
    /// 99th percentile, in microseconds.
    pub p99_us: f64,
}

/// A logarithmic axis between two powers of ten, or of ten times 1, 2 or 5.
struct Axis {
    low: f64,
    high: f64,
}

/// Marks of an axis: 1, 2 and 5 of every power of ten that anybody measures.
fn marks() -> impl Iterator<Item = f64> {
    (-3..10).flat_map(|power| [1.0, 2.0, 5.0].map(|digit| digit * 10f64.powi(power)))
}

impl Axis {
    /// From the mark below all values to the one above them.
    fn around(values: impl Iterator<Item = f64> + Clone) -> Self {
        let (least, most) = (values.clone().fold(f64::INFINITY, f64::min), values.fold(0.0, f64::max));
        let low = marks().take_while(|mark| *mark <= least).last().unwrap_or(least);
        let high = marks().find(|mark| *mark >= most && *mark > low).unwrap_or(most);
        Self { low, high }
    }

    /// Where a value lies, from 0 to 1.
    fn part(&self, value: f64) -> f64 {
        (value / self.low).ln() / (self.high / self.low).ln()
    }

    fn marks(&self) -> impl Iterator<Item = f64> {
        marks().filter(|mark| *mark >= self.low * 0.999 && *mark <= self.high * 1.001)
    }
}

/// `20`, `5k`, `0.5`.
fn short(value: f64) -> String {
    match value {
        v if v >= 1e6 => format!("{}M", v / 1e6),
        v if v >= 1e3 => format!("{}k", v / 1e3),
        v => format!("{}", (v * 1e6).round() / 1e6),
    }
}

/// What cannot stand in XML as it is.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// The picture; `title` says what was measured, `note` on what.
pub fn svg(title: &str, note: &str, points: &[PlotPoint]) -> String {
    let points: Vec<PlotPoint> =
        points.iter().copied().filter(|p| p.per_second > 0.0 && p.p50_us > 0.0 && p.p99_us > 0.0).collect();
    let mut out = format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="system-ui, sans-serif" font-size="13">
<style>
  .back {{ fill: #ffffff }} .text {{ fill: #1f2328 }} .grid {{ stroke: #d0d7de }} .p50 {{ stroke: #0550ae; fill: #0550ae }} .p99 {{ stroke: #bc4c00; fill: #bc4c00 }}
  @media (prefers-color-scheme: dark) {{
    .back {{ fill: #0d1117 }} .text {{ fill: #e6edf3 }} .grid {{ stroke: #30363d }} .p50 {{ stroke: #79c0ff; fill: #79c0ff }} .p99 {{ stroke: #ffa657; fill: #ffa657 }}
  }}
  .line {{ fill: none; stroke-width: 2 }} .name {{ stroke: none; font-weight: 600 }}
</style>
<rect class="back" width="{WIDTH}" height="{HEIGHT}"/>
<text class="text" x="{LEFT}" y="24" font-size="16" font-weight="600">{}</text>
<text class="text" x="{LEFT}" y="44" font-size="12">{}</text>
"##,
        escape(title),
        escape(note)
    );
    if points.is_empty() {
        let _ = writeln!(out, r#"<text class="text" x="{LEFT}" y="{TOP}">nothing was answered</text></svg>"#);
        return out;
    }
    let x_axis = Axis::around(points.iter().map(|p| p.per_second));
    let y_axis = Axis::around(points.iter().flat_map(|p| [p.p50_us / 1e3, p.p99_us / 1e3]));
    let x = |per_second: f64| LEFT + (RIGHT - LEFT) * x_axis.part(per_second);
    let y = |ms: f64| BOTTOM - (BOTTOM - TOP) * y_axis.part(ms);
    for mark in x_axis.marks() {
        let at = x(mark);
        let _ = writeln!(out, r#"<path class="grid" d="M{at:.1} {TOP}V{BOTTOM}"/>"#);
        let _ = writeln!(
            out,
            r#"<text class="text" x="{at:.1}" y="{}" text-anchor="middle">{}</text>"#,
            BOTTOM + 18.0,
            short(mark)
        );
    }
    for mark in y_axis.marks() {
        let at = y(mark);
        let _ = writeln!(out, r#"<path class="grid" d="M{LEFT} {at:.1}H{RIGHT}"/>"#);
        let (at_x, at_y) = (LEFT - 8.0, at + 4.0);
        let _ =
            writeln!(out, r#"<text class="text" x="{at_x}" y="{at_y:.1}" text-anchor="end">{}</text>"#, short(mark));
    }
    let middle = (LEFT + RIGHT) / 2.0;
    let _ = writeln!(
        out,
        r#"<text class="text" x="{middle}" y="{}" text-anchor="middle">operations per second</text>
<text class="text" transform="translate(24 {}) rotate(-90)" text-anchor="middle">latency, ms</text>"#,
        HEIGHT - 16.0,
        (TOP + BOTTOM) / 2.0
    );
    for (name, latency_us) in [("p50", (|p| p.p50_us) as fn(&PlotPoint) -> f64), ("p99", |p| p.p99_us)] {
        let at = |p: &PlotPoint| (x(p.per_second), y(latency_us(p) / 1e3));
        let line: Vec<String> = points.iter().map(at).map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        let _ = writeln!(out, r#"<polyline class="line {name}" points="{}"/>"#, line.join(" "));
        for point in &points {
            let (x, y) = at(point);
            let tip = format!(
                "{} clients: {:.0}/s, {name} {:.2} ms",
                point.clients,
                point.per_second,
                latency_us(point) / 1e3
            );
            let _ = writeln!(
                out,
                r#"<circle class="{name}" cx="{x:.1}" cy="{y:.1}" r="3.5"><title>{tip}</title></circle>"#
            );
            if name == "p50" {
                let below = y + 18.0;
                let _ = writeln!(
                    out,
                    r#"<text class="text" x="{x:.1}" y="{below:.1}" text-anchor="middle" font-size="11">{}</text>"#,
                    point.clients
                );
            }
        }
        let last = &points[points.len() - 1];
        let (x, y) = at(last);
        let (x, y) = (x - 6.0, y - 10.0);
        let _ = writeln!(out, r#"<text class="name {name}" x="{x:.1}" y="{y:.1}" text-anchor="end">{name}</text>"#);
    }
    let _ = writeln!(
        out,
        r#"<text class="text" x="{RIGHT}" y="24" font-size="11" text-anchor="end">numbers below p50: clients</text>
</svg>"#
    );
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(clients: u32, per_second: f64, p50_us: f64) -> PlotPoint {
        PlotPoint { clients, per_second, p50_us, p99_us: 3.0 * p50_us }
    }

    /// All points lie within the axes, and more throughput lies further to the right.
    #[test]
    fn a_sweep() {
        let points = [point(1, 800.0, 1000.0), point(16, 9_000.0, 1700.0), point(256, 19_500.0, 12_000.0)];
        let svg = svg("write <1 & 2>", "2 cores", &points);
        assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
        assert!(svg.contains("write &lt;1 &amp; 2&gt;") && svg.contains("prefers-color-scheme: dark"));
        assert_eq!(svg.matches("<circle").count(), 6);
        let lines: Vec<&str> = svg.split("points=\"").skip(1).map(|rest| rest.split('"').next().unwrap()).collect();
        for line in lines {
            let at: Vec<(f64, f64)> = line
                .split(' ')
                .map(|pair| pair.split_once(',').unwrap())
                .map(|(x, y)| (x.parse().unwrap(), y.parse().unwrap()))
                .collect();
            assert!(at.iter().all(|(x, y)| (LEFT..=RIGHT).contains(x) && (TOP..=BOTTOM).contains(y)), "{at:?}");
            assert!(at.windows(2).all(|two| two[0].0 < two[1].0 && two[0].1 > two[1].1), "{at:?}");
        }
    }

    /// One point, equal points, and no point are pictures, too.
    #[test]
    fn few_points() {
        for points in [vec![point(1, 10.0, 10.0)], vec![point(1, 0.001, 1e9); 2], vec![], vec![point(1, 0.0, 0.0)]] {
            let svg = svg("t", "n", &points);
            assert!(svg.trim_end().ends_with("</svg>") && !svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        }
    }

    /// Axes end at round numbers around what was measured.
    #[test]
    fn axes() {
        let axis = Axis::around([123.0, 4_500.0].into_iter());
        assert_eq!((axis.low, axis.high), (100.0, 5_000.0));
        assert_eq!(axis.marks().map(short).collect::<Vec<_>>(), ["100", "200", "500", "1k", "2k", "5k"]);
    }
}
