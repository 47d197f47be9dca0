//! The picture: for each workload a line per server, with its CPU time per message as a multiple of the bare loop's.

use std::path::Path;

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::results::Spread;

/// One server in one workload.
pub(crate) struct Dot {
    pub(crate) server: String,
    pub(crate) is_ours: bool,
    pub(crate) ratio: Spread,
}

/// The dots of one workload.
pub(crate) struct Group {
    pub(crate) work: String,
    pub(crate) dots: Vec<Dot>,
}

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Drawn = Result<(), Box<dyn std::error::Error>>;

/// Draws `groups` into an SVG file; `facts` is the line below the title.
///
/// # Errors
/// The file cannot be written.
pub(crate) fn draw(path: &Path, groups: &[Group], facts: &str) -> Drawn {
    let height = TOP + groups.iter().map(height_of).sum::<i32>() + BOTTOM;
    let area = SVGBackend::new(path, (WIDTH as u32, height as u32)).into_drawing_area();
    area.fill(&WHITE)?;
    text(
        &area,
        "CPU time per message, as a multiple of a bare epoll loop (less is better)",
        (8, 16),
        16,
        Side::Left,
    )?;
    text(&area, facts, (8, 36), 12, Side::Left)?;
    let scale = Scale::of(groups);
    let mut top = TOP;
    for group in groups {
        draw_group(&area, &scale, group, top)?;
        top += height_of(group);
    }
    for mark in scale.marks() {
        text(&area, &format!("{mark}"), (scale.x(mark), height - BOTTOM + 8), 12, Side::Middle)?;
    }
    area.present()?;
    Ok(())
}

/// A heading, and below it a row for each server.
fn draw_group(area: &Area<'_>, scale: &Scale, group: &Group, top: i32) -> Drawn {
    text(area, &group.work, (8, top + ROW / 2), 14, Side::Left)?;
    let bottom = top + height_of(group) - GAP;
    for mark in scale.marks() {
        let style = if mark == 1.0 { BLACK.stroke_width(1) } else { GRID.stroke_width(1) };
        area.draw(&PathElement::new([(scale.x(mark), top + ROW), (scale.x(mark), bottom)], style))?;
    }
    for (dot, nth) in group.dots.iter().zip(1..) {
        draw_row(area, scale, dot, top + ROW * nth + ROW / 2)?;
    }
    Ok(())
}

fn height_of(group: &Group) -> i32 {
    ROW * (group.dots.len() as i32 + 1) + GAP
}

/// A server's name, its interval, its dot and its ratio in figures.
fn draw_row(area: &Area<'_>, scale: &Scale, dot: &Dot, y: i32) -> Drawn {
    let color = if dot.is_ours { OURS } else { OTHERS };
    text(area, &dot.server, (LEFT - 8, y), 12, Side::Right)?;
    area.draw(&PathElement::new(
        [(scale.x(dot.ratio.low), y), (scale.x(dot.ratio.high), y)],
        color.stroke_width(2),
    ))?;
    area.draw(&Circle::new((scale.x(dot.ratio.median), y), 4, color.filled()))?;
    text(area, &format!("{:.2}", dot.ratio.median), (WIDTH - 8, y), 12, Side::Right)
}

fn text(area: &Area<'_>, what: &str, at: (i32, i32), size: i32, side: Side) -> Drawn {
    let side = match side {
        Side::Left => HPos::Left,
        Side::Middle => HPos::Center,
        Side::Right => HPos::Right,
    };
    let style = TextStyle::from(("sans-serif", f64::from(size) * POINT))
        .color(&BLACK)
        .pos(Pos::new(side, VPos::Center));
    area.draw(&Text::new(what, at, style))?;
    Ok(())
}

/// Where a text stands at the point that it is given.
#[derive(Clone, Copy)]
enum Side {
    Left,
    Middle,
    Right,
}

/// Ratios on a logarithmic scale from the left to the right edge.
struct Scale {
    low: f64,
    high: f64,
}

impl Scale {
    /// From the mark below the least to the mark above the greatest.
    fn of(groups: &[Group]) -> Self {
        let dots = || groups.iter().flat_map(|group| &group.dots);
        let least = dots().map(|dot| dot.ratio.low).fold(0.9, f64::min);
        let greatest = dots().map(|dot| dot.ratio.high).fold(1.1, f64::max);
        let low = MARKS.iter().copied().rfind(|mark| *mark <= least).unwrap_or(MARKS[0]);
        let high = MARKS.iter().copied().find(|mark| *mark >= greatest).unwrap_or(MARKS[MARKS.len() - 1]);
        Self { low, high }
    }

    fn marks(&self) -> impl Iterator<Item = f64> {
        MARKS.into_iter().filter(|mark| (self.low..=self.high).contains(mark))
    }

    fn x(&self, ratio: f64) -> i32 {
        let part = (ratio.clamp(self.low, self.high) / self.low).ln() / (self.high / self.low).ln();
        LEFT + (part * f64::from(RIGHT - LEFT)) as i32
    }
}

const MARKS: [f64; 12] = [0.1, 0.2, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 20.0, 50.0, 100.0];
const OURS: RGBColor = RGBColor(0xd5, 0x5e, 0x00);
const OTHERS: RGBColor = RGBColor(0x44, 0x66, 0x88);
const GRID: RGBColor = RGBColor(0xdd, 0xdd, 0xdd);

// Pixels.
const WIDTH: i32 = 720;
const LEFT: i32 = 130;
const RIGHT: i32 = WIDTH - 60;
const TOP: i32 = 48;
const BOTTOM: i32 = 24;
const ROW: i32 = 16;
const GAP: i32 = 8;
/// The backend divides the size of a font by this.
const POINT: f64 = 1.24;
