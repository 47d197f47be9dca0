//! The results as Markdown: for each workload the bare loop in figures, the others as multiples of it.

use crate::peers::Peer;
use crate::results::{RAW, Results};

/// The table; `peers` says which of our servers does what another one does.
pub(crate) fn markdown(results: &Results, peers: &[Peer]) -> String {
    let mut out = HEAD.to_owned();
    for work in results.works() {
        let servers = results.servers(work);
        for server in &servers {
            let label = if results.is_void(work) { format!("~~{work}~~ void") } else { work.to_owned() };
            out += &match *server {
                RAW => raw_row(results, work, &label),
                server => {
                    let ours = ours_for(server, peers).filter(|ours| servers.contains(ours));
                    row(results, work, &label, server, ours)
                }
            };
        }
    }
    out + LEGEND
}

/// Who went through each workload: without a wrong byte, else the bench says so.
pub(crate) fn checked(results: &Results) -> String {
    let line = |work: &str| {
        let servers: Vec<_> =
            results.servers(work).into_iter().map(|server| title(server).trim_matches('*')).collect();
        format!("every byte right: {work}: {}\n", servers.join(", "))
    };
    results.works().into_iter().map(line).collect()
}

/// What a server is called in the table; what is ours is bold.
pub(crate) fn title(server: &str) -> &str {
    match server {
        "ours" => "**lineplex**",
        "samplechat" => "**samplechat**",
        RAW => "bare epoll loop",
        other => other,
    }
}

fn raw_row(results: &Results, work: &str, label: &str) -> String {
    let figure = |name, digits| {
        let value = results.median(work, RAW, name);
        value.map_or(String::new(), |value| grouped(value, digits))
    };
    let control = results.control(work).map_or(String::new(), |control| format!("; A/A {control}"));
    format!(
        "| {label} | {} | {} ns{control} | {}/s | {} us | {} us | {} us | {} | |\n",
        title(RAW),
        figure("cpu_ns_each", 0),
        figure("per_second", 0),
        figure("p50_us", 0),
        figure("p99_us", 0),
        figure("p999_us", 0),
        figure("calls_each", 3),
    )
}

fn row(results: &Results, work: &str, label: &str, server: &str, ours: Option<&str>) -> String {
    let ratio = |figure| {
        let spread = results.ratio(work, server, RAW, figure);
        spread.map_or(String::new(), |spread| format!("{:.2}", spread.median))
    };
    let cpu = results.ratio(work, server, RAW, "cpu_ns_each").map_or(String::new(), |cpu| cpu.to_string());
    let calls = results.median(work, server, "calls_each").map_or(String::new(), |calls| grouped(calls, 3));
    let against = ours.and_then(|ours| results.ratio(work, ours, server, "cpu_ns_each"));
    let against = against.map_or(String::new(), |against| format!("{:.2}", against.median));
    let title = title(server);
    let [rate, p50, p99, p999] = ["per_second", "p50_us", "p99_us", "p999_us"].map(ratio);
    format!("| {label} | {title} | {cpu} | {rate} | {p50} | {p99} | {p999} | {calls} | {against} |\n")
}

/// Which of our servers is to be compared with that one.
fn ours_for<'a>(server: &str, peers: &'a [Peer]) -> Option<&'a str> {
    peers.iter().find(|peer| peer.name == server).map(|peer| peer.ours).filter(|ours| !ours.is_empty())
}

/// A number with a comma before each three digits.
fn grouped(value: f64, digits: usize) -> String {
    let text = format!("{value:.digits$}");
    let (whole, rest) = text.split_at(text.find('.').unwrap_or(text.len()));
    let mut out = String::new();
    for (at, digit) in whole.chars().enumerate() {
        if at > 0 && (whole.len() - at) % 3 == 0 {
            out.push(',');
        }
        out.push(digit);
    }
    out + rest
}

const HEAD: &str = "\
| workload | server | CPU per message | messages/s | p50 | p99 | p99.9 | system calls per message | CPU, lineplex against it |
|---|---|---|--:|--:|--:|--:|--:|--:|
";

const LEGEND: &str = "
The bare loop's row has its own figures, all others are multiples of it: the median of the ratios inside each round, and in
brackets the interval that covers the true one in 95 of 100 cases. System calls per message are counts.
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_by_three_digits() {
        let cases = [(0.125, 3), (999.0, 0), (1000.0, 0), (1_234_567.0, 0), (1234.5, 1)];
        let texts = cases.map(|(value, digits)| grouped(value, digits));
        assert_eq!(texts, ["0.125", "999", "1,000", "1,234,567", "1,234.5"]);
    }
}
