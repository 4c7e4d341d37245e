//! The shell's own commands, which begin with a dot.

use std::path::Path;

use serde_json::{Value as Json, json};

use super::script::{self, Source};
use super::session::Session;
use super::splitter::Text;
use crate::commands::{CommandError, call_once, output, parse, status};
use crate::http_client::{ApiError, Call, percent_encode};

/// Scripts may `.read` scripts this deep; a script that reads itself ends here.
const MAX_DEPTH: u32 = 8;

const HELP: &str = "\
.help                    this list
.tables                  the registered tables and where they live
.schema [TABLE]          one table, or all: columns, key, shards
.shards                  the shards
.nodes                   the nodes
.status                  nodes, groups, leaders, lag, jobs
.jobs                    long work, running and done
.explain STATEMENT       where a statement would run, and what each shard would do
.mode table|json|csv     how rows are printed
.timer on|off            times after each statement
.read FILE               run a script
.quit                    leave (also Ctrl-D)

A statement ends with a semicolon and may span lines. Ctrl-C drops the input, or stops waiting
for a statement.
";

/// Does the input go on?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// Yes.
    Continue,
    /// `.quit`, or an error that ends a script.
    Stop,
}

impl Flow {
    /// Is it [`Flow::Stop`]?
    pub fn is_stop(self) -> bool {
        self == Self::Stop
    }
}

/// A command with its argument.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Dot {
    Help,
    Schema(Option<String>),
    List { path: &'static str, field: &'static str, columns: &'static [&'static str] },
    Status,
    Explain(String),
    Mode(output::Mode),
    Timer(bool),
    Read(String),
    Quit,
}

fn parse_dot(line: &str) -> Result<Dot, String> {
    let line = line.trim().trim_end_matches(';').trim_end();
    let (name, argument) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let whole = argument.trim();
    let argument = unquote(whole);
    let no_argument = |dot| if argument.is_empty() { Ok(dot) } else { Err(format!("{name} takes no argument")) };
    match name {
        ".help" => no_argument(Dot::Help),
        ".quit" | ".exit" => no_argument(Dot::Quit),
        ".status" => no_argument(Dot::Status),
        ".tables" => no_argument(Dot::List {
            path: "/table",
            field: "tables",
            columns: &["name", "placement", "key", "func", "shards"],
        }),
        ".shards" => no_argument(Dot::List { path: "/shard", field: "shards", columns: &["id", "state", "nodes"] }),
        ".nodes" => no_argument(Dot::List {
            path: "/node",
            field: "nodes",
            columns: &["id", "http_addr", "raft_addr", "state", "groups"],
        }),
        ".jobs" => no_argument(Dot::List {
            path: "/job",
            field: "jobs",
            columns: &["id", "kind", "state", "percent", "step", "error"],
        }),
        ".schema" => Ok(Dot::Schema((!argument.is_empty()).then(|| argument.to_owned()))),
        ".explain" if whole.is_empty() => Err("use .explain STATEMENT".into()),
        ".explain" => Ok(Dot::Explain(whole.to_owned())),
        ".mode" => argument.parse().map(Dot::Mode),
        ".timer" => match argument {
            "on" => Ok(Dot::Timer(true)),
            "off" => Ok(Dot::Timer(false)),
            _ => Err("use .timer on or .timer off".into()),
        },
        ".read" if argument.is_empty() => Err("use .read FILE".into()),
        ".read" => Ok(Dot::Read(argument.to_owned())),
        _ => Err(format!("unknown command {name}; .help lists the commands")),
    }
}

fn unquote(text: &str) -> &str {
    ['\'', '"'].iter().find_map(|quote| text.strip_prefix(*quote)?.strip_suffix(*quote)).unwrap_or(text)
}

/// Carries out one command. What fails is reported and counted.
///
/// # Errors
/// When a script that it reads ends the run.
pub async fn run(session: &mut Session, command: &Text) -> Result<Flow, CommandError> {
    let dot = match parse_dot(&command.text) {
        Ok(dot) => dot,
        Err(why) => {
            session.fail(command.line, &format_args!("error[usage]: {why}"));
            return Ok(Flow::Continue);
        }
    };
    let shown = match dot {
        Dot::Quit => return Ok(Flow::Stop),
        Dot::Read(path) => return read(session, command.line, &path).await,
        Dot::Mode(mode) => {
            session.mode = mode;
            return Ok(Flow::Continue);
        }
        Dot::Timer(on) => {
            session.timer = on;
            return Ok(Flow::Continue);
        }
        Dot::Help => Ok(HELP.to_owned()),
        Dot::Status => show_status(session).await,
        Dot::Explain(sql) => explain(session, &sql).await,
        Dot::List { path, field, columns } => list(session, path, field, columns).await,
        Dot::Schema(Some(table)) => schema(session, &table).await,
        Dot::Schema(None) => schemas(session).await,
    };
    match shown {
        Ok(text) => session.print(&text),
        Err(error) => session.fail(command.line, &error),
    }
    Ok(Flow::Continue)
}

async fn read(session: &mut Session, line: u64, path: &str) -> Result<Flow, CommandError> {
    if session.depth >= MAX_DEPTH {
        session.fail(line, &format_args!("error[usage]: scripts read each other more than {MAX_DEPTH} deep"));
        return Ok(Flow::Continue);
    }
    let source = match Source::file(Path::new(path)).await {
        Ok(source) => source,
        Err(error) => {
            session.fail(line, &error);
            return Ok(Flow::Continue);
        }
    };
    let outer_style = std::mem::replace(&mut session.style, super::Style::Script);
    let outer = (session.bail, session.failed_before);
    if outer_style == super::Style::Interactive {
        (session.bail, session.failed_before) = (true, session.failed());
    }
    session.depth += 1;
    let outcome = script::run(session, source).await;
    session.depth -= 1;
    session.style = outer_style;
    (session.bail, session.failed_before) = outer;
    match outcome {
        // A shell stays open whatever a script met.
        Err(CommandError::Reported) if outer_style == super::Style::Interactive => Ok(Flow::Continue),
        // `.quit` in a script ends that script.
        Ok(Flow::Stop) if !session.must_stop() => Ok(Flow::Continue),
        other => other,
    }
}

async fn get(session: &mut Session, path: &str) -> Result<Json, CommandError> {
    parse(&call_once(&mut session.client, &Call::get(path)).await?)
}

async fn list(session: &mut Session, path: &str, field: &str, columns: &[&str]) -> Result<String, CommandError> {
    let items = output::items(get(session, path).await?, field);
    Ok(if items.is_empty() { format!("no {field}\n") } else { output::objects(&items, columns) })
}

async fn show_status(session: &mut Session) -> Result<String, CommandError> {
    let status: status::Status = parse(&call_once(&mut session.client, &Call::get("/status")).await?)?;
    Ok(status::render(&status))
}

/// The plan of a statement, in the server's words.
async fn explain(session: &mut Session, sql: &str) -> Result<String, CommandError> {
    let call = Call::post("/explain", json!({ "query": sql }).to_string());
    let plan: Json = parse(&call_once(&mut session.client, &call).await?)?;
    let text = plan["text"].as_str().ok_or_else(|| {
        CommandError::Api(ApiError {
            code: "unexpected".into(),
            message: "a plan without a text".into(),
            ..ApiError::default()
        })
    })?;
    // Names and literals in it may hold anything.
    Ok(output::escape(text.trim_end()) + "\n")
}

async fn schema(session: &mut Session, table: &str) -> Result<String, CommandError> {
    Ok(describe(&get(session, &format!("/table/{}", percent_encode(table))).await?))
}

async fn schemas(session: &mut Session) -> Result<String, CommandError> {
    let tables = output::items(get(session, "/table").await?, "tables");
    let mut out = String::new();
    for table in &tables {
        let name = table.get("name").or_else(|| table.get("table_name")).and_then(Json::as_str).ok_or_else(|| {
            CommandError::Api(ApiError {
                code: "unexpected".into(),
                message: "a table without a name".into(),
                ..ApiError::default()
            })
        })?;
        out.push_str(&schema(session, name).await?);
    }
    Ok(out)
}

/// One table: its SQL where the server gives it, its columns, and every other field on a line.
fn describe(table: &Json) -> String {
    let Json::Object(map) = table else { return format!("{}\n", output::plain(table)) };
    let mut out = String::new();
    match map.get("sql") {
        Some(Json::String(sql)) => out.push_str(&format!("{};\n", output::escape(sql.trim_end_matches(';')))),
        Some(Json::Array(statements)) => {
            for sql in statements.iter().filter_map(Json::as_str) {
                out.push_str(&format!("{};\n", output::escape(sql.trim_end_matches(';'))));
            }
        }
        _ => {}
    }
    for (name, value) in map.iter().filter(|(name, _)| *name != "sql") {
        match value {
            Json::Array(items) if items.iter().any(Json::is_object) => {
                out.push_str(&format!("-- {name}:\n{}", output::objects(items, &["name", "type", "id"])));
            }
            other => out.push_str(&format!("-- {name}: {}\n", output::plain(other))),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Arguments may be quoted, a closing semicolon is forgiven, nonsense is explained.
    #[test]
    fn commands() {
        assert_eq!(parse_dot(".quit;"), Ok(Dot::Quit));
        assert_eq!(parse_dot(".schema  'my table' "), Ok(Dot::Schema(Some("my table".into()))));
        assert_eq!(parse_dot(".schema"), Ok(Dot::Schema(None)));
        let explained = "SELECT 'a;' FROM t WHERE \"b\" = 'c'";
        assert_eq!(parse_dot(&format!(".explain {explained};")), Ok(Dot::Explain(explained.into())));
        assert!(parse_dot(".explain ;").is_err());
        assert_eq!(parse_dot(".mode csv"), Ok(Dot::Mode(output::Mode::Csv)));
        assert_eq!(parse_dot(".timer off"), Ok(Dot::Timer(false)));
        assert_eq!(parse_dot(".read a b.sql"), Ok(Dot::Read("a b.sql".into())));
        assert!(parse_dot(".mode html").unwrap_err().contains("table, json or csv"));
        assert!(parse_dot(".tables x").is_err() && parse_dot(".read").is_err());
        assert!(parse_dot(".nonsense").unwrap_err().contains(".help"));
    }

    /// Every command that the help names is one.
    #[test]
    fn help_is_true() {
        for line in HELP.lines().filter(|line| line.starts_with('.')) {
            let usage = line.split("  ").next().unwrap();
            let example = usage.replace("table|json|csv", "csv").replace("on|off", "on").replace(['[', ']'], "");
            assert!(parse_dot(&example).is_ok(), "{example}");
        }
    }

    /// A table with and without its SQL.
    #[test]
    fn descriptions() {
        let table = serde_json::json!({
            "name": "t", "sql": "CREATE TABLE t (a)", "key": ["a"], "columns": [{"name": "a", "type": "TEXT"}]
        });
        let text = describe(&table);
        assert!(text.starts_with("CREATE TABLE t (a);\n"), "{text}");
        assert!(text.contains("-- key: a\n") && text.contains("| a    | TEXT |"), "{text}");
    }
}
