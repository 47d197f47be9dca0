//! lineplex beside the servers that others write, in one run of the crate's loopback bench: it starts them all in
//! turns, puts the same load on each and checks every byte; here they are built, and the results become a table and a
//! picture. README.md tells how to read them.

mod machine;
mod options;
mod peers;
mod plot;
mod results;
mod table;

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::{env, fs};

use options::{HELP, Options, Tell};
use peers::{Peer, Places};
use plot::{Dot, Group};
use results::{RAW, Results};

type Outcome<T> = Result<T, Box<dyn Error>>;

fn main() -> ExitCode {
    match run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("compare: {error}");
            ExitCode::from(2)
        }
    }
}

fn run() -> Outcome<ExitCode> {
    let options = Options::parse(lexopt::Parser::from_env())?;
    if matches!(options.tell, Some(Tell::Help)) {
        print!("{HELP}");
        return Ok(ExitCode::SUCCESS);
    }
    let target = target_directory()?;
    let bench = build(&target)?;
    let bin = target.join("release");
    let mut peers = peers::all(&Places { examples: bin.join("examples"), bin });
    if let Some(name) = options.peers.iter().find(|name| peers.iter().all(|peer| peer.name != **name)) {
        return Err(format!("there is no peer {name}; --list tells which there are").into());
    }
    peers.retain(|peer| options.peers.is_empty() || options.peers.iter().any(|name| name == peer.name));
    let head = head(&peers);
    print!("{head}");
    if matches!(options.tell, Some(Tell::Peers)) {
        return Ok(ExitCode::SUCCESS);
    }
    let out = options.out.unwrap_or_else(|| target.join("compare"));
    fs::create_dir_all(&out)?;
    let runs = out.join("runs.jsonl");
    let load = machine::load();
    let (complete, notes) = measure(&bench, &options.bench, &peers, &runs)?;
    let results = Results::parse(&fs::read_to_string(&runs)?)?;
    if options.smoke {
        print!("{}\n{notes}", table::checked(&results));
        return Ok(if complete { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    let facts = facts(&results, load);
    let text = format!("{}\n{facts}\n{notes}", table::markdown(&results, &peers));
    print!("{text}");
    fs::write(out.join("table.md"), head + &text)?;
    for picture in [Some(out.join("ratios.svg")), options.svg].into_iter().flatten() {
        plot::draw(&picture, &groups(&results), &facts)?;
        println!("picture: {}", picture.display());
    }
    println!("runs: {}", runs.display());
    Ok(if complete { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Where cargo has put this program: all else goes there too.
fn target_directory() -> Outcome<PathBuf> {
    let program = env::current_exe()?;
    let release = program.parent().filter(|parent| parent.ends_with("release"));
    let target = release.and_then(Path::parent).ok_or("build it with --release, what it compares is too")?;
    Ok(target.to_owned())
}

/// The crate's manifest.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../Cargo.toml")
}

fn cargo(what: &[&str], manifest: &Path, target: &Path) -> Command {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .args(what)
        .arg("--manifest-path")
        .arg(manifest)
        .arg("--target-dir")
        .arg(target)
        .stdin(Stdio::null());
    cargo
}

/// Builds the other programs of this package, the crate's example, and its bench; where that is.
fn build(target: &Path) -> Outcome<PathBuf> {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
    let build = ["build", "--locked", "--release", "--quiet"];
    for (what, manifest) in [(&["--bins"][..], &own), (&["--example", "samplechat"], &root())] {
        if !cargo(&build, manifest, target).args(what).status()?.success() {
            return Err("cargo build has failed".into());
        }
    }
    let mut bench = cargo(&["bench", "--locked", "--quiet", "--no-run"], &root(), target);
    let output =
        bench.args(["--bench", "loopback", "--message-format", "json"]).stderr(Stdio::inherit()).output()?;
    let messages = String::from_utf8_lossy(&output.stdout);
    let program = messages.lines().find_map(|line| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        message["executable"].as_str().map(PathBuf::from)
    });
    program.ok_or_else(|| "the bench cannot be built".into())
}

/// Runs the bench; whether nothing failed, and what it remarks.
fn measure(bench: &Path, options: &[String], peers: &[Peer], runs: &Path) -> Outcome<(bool, String)> {
    // The bench appends.
    fs::write(runs, "")?;
    let mut bench = Command::new(bench);
    // As `cargo bench` calls it.
    bench.arg("--bench").args(options).arg("--json").arg(runs).stdin(Stdio::null());
    for peer in peers {
        if let Ok(command) = &peer.command {
            bench.arg("--peer").arg(format!("{}={command}", peer.name)).args(peer.dialect);
        }
    }
    eprintln!("measuring; each run is added to {}", runs.display());
    let output = bench.stderr(Stdio::inherit()).output()?;
    // 1: it ran, and something was wrong with a server; that is told of, and the others count.
    let complete = output.status.success();
    if !complete && output.status.code() != Some(1) {
        return Err("the bench did not run".into());
    }
    let said = String::from_utf8_lossy(&output.stdout);
    let is_note =
        |line: &&str| ["failed: ", "skipped: ", "system calls "].iter().any(|note| line.starts_with(note));
    let notes = said.lines().filter(is_note).map(|line| format!("{line}\n")).collect();
    Ok((complete, notes))
}

/// What is measured, and what is not.
fn head(peers: &[Peer]) -> String {
    let mut out = String::new();
    for peer in peers {
        out += &match &peer.command {
            Ok(_) => format!("- {}: {}\n", peer.name, peer.about),
            Err(missing) => {
                let install = match missing.packages {
                    "" => String::new(),
                    packages => format!("; apt-get install {packages}"),
                };
                format!("- {}: left out: {}{install}\n", peer.name, missing.reason)
            }
        };
    }
    out + "\n"
}

fn facts(results: &Results, load: Option<f64>) -> String {
    let load = load.map_or(String::new(), |load| format!("; load average before: {load:.2}"));
    format!("{}; {} rounds{load}", machine::facts(), results.rounds())
}

/// What the picture shows: everything but the bare loop itself.
fn groups(results: &Results) -> Vec<Group> {
    let dot = |work: &str, server: &str| {
        let cpu = results.ratio(work, server, RAW, "cpu_ns_each")?;
        let title = table::title(server);
        let is_ours = title.starts_with('*');
        Some(Dot { server: title.trim_matches('*').to_owned(), is_ours, ratio: cpu })
    };
    let group = |work: &str| {
        let note = if results.is_void(work) { " (void: the machine was not quiet)" } else { "" };
        let servers = results.servers(work).into_iter().filter(|server| *server != RAW);
        Group {
            work: format!("{work}{note}"),
            dots: servers.filter_map(|server| dot(work, server)).collect(),
        }
    };
    results.works().into_iter().map(group).collect()
}
