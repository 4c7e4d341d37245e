//! What processes count about themselves, read from `/metrics`, and what their files take.

use std::path::Path;

use serde_json::Value as Json;

use crate::commands::{CommandError, call_once, parse};
use crate::http_client::{BaseUrl, Call, Client};

/// One line of `/metrics`.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// Name, with suffixes such as `_total`.
    pub name: String,
    /// Labels in order, without quotes.
    pub labels: Vec<(String, String)>,
    /// The value.
    pub value: f64,
}

impl Sample {
    /// The value of a label.
    pub fn label(&self, name: &str) -> Option<&str> {
        self.labels.iter().find(|(label, _)| label == name).map(|(_, value)| value.as_str())
    }
}

/// Reads the OpenMetrics text; lines that are none are passed over. Values of our labels hold no quotes,
/// commas or braces.
pub fn samples(text: &str) -> Vec<Sample> {
    let line = |line: &str| {
        let (key, value) = line.rsplit_once(' ')?;
        let (name, labels) = key.strip_suffix('}').and_then(|key| key.split_once('{')).unwrap_or((key, ""));
        let labels = labels.split(',').filter_map(|label| label.split_once('='));
        Some(Sample {
            name: name.to_owned(),
            labels: labels.map(|(name, value)| (name.to_owned(), value.trim_matches('"').to_owned())).collect(),
            value: value.parse().ok()?,
        })
    };
    text.lines().filter(|line| !line.starts_with('#')).filter_map(line).collect()
}

/// The metrics of one process.
///
/// # Errors
/// When it does not answer.
pub async fn metrics(url: &BaseUrl) -> Result<Vec<Sample>, CommandError> {
    metrics_of(&mut Client::new(url.clone())).await
}

/// The same on a connection that is kept.
///
/// # Errors
/// When it does not answer.
pub async fn metrics_of(client: &mut Client) -> Result<Vec<Sample>, CommandError> {
    let reply = call_once(client, &Call::get("/metrics")).await?;
    Ok(samples(&String::from_utf8_lossy(&reply.body)))
}

/// The HTTP addresses of all nodes that are up, as the proxy knows them.
///
/// # Errors
/// When it does not answer.
pub async fn nodes(client: &mut Client) -> Result<Vec<BaseUrl>, CommandError> {
    let nodes: Json = parse(&call_once(client, &Call::get("/node")).await?)?;
    let up = nodes["nodes"].as_array().into_iter().flatten().filter(|node| node["state"] == "up");
    up.map(|node| format!("http://{}", node["http_addr"].as_str().unwrap_or_default()).parse())
        .collect::<Result<_, String>>()
        .map_err(CommandError::Failed)
}

/// The sum of a metric over all nodes that are up.
///
/// # Errors
/// When one does not answer.
pub async fn sum_over_nodes(client: &mut Client, name: &str) -> Result<f64, CommandError> {
    let mut total = 0.0;
    for node in nodes(client).await? {
        total += sum(&metrics(&node).await?, &[name]);
    }
    Ok(total)
}

/// The sum of some metrics in the samples of one process.
pub fn sum(samples: &[Sample], names: &[&str]) -> f64 {
    samples.iter().filter(|sample| names.contains(&sample.name.as_str())).map(|sample| sample.value).sum()
}

/// Bytes of all files below a folder; those that go away meanwhile are passed over.
pub fn folder_bytes(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
    let size = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(found) if found.is_dir() => folder_bytes(&entry.path()),
        Ok(found) => found.len(),
        Err(_) => 0,
    };
    entries.map(size).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lines with and without labels; comments and what is no number are passed over.
    #[test]
    fn openmetrics() {
        let text = "# HELP a b\n# TYPE a counter\na_total 3\nb{group=\"shard1\",le=\"+Inf\"} 4.5\nc x\n# EOF\n";
        let found = samples(text);
        assert_eq!(found.len(), 2);
        assert_eq!((found[0].name.as_str(), found[0].value), ("a_total", 3.0));
        assert_eq!(
            (found[1].label("le"), found[1].label("group"), found[1].label("x")),
            (Some("+Inf"), Some("shard1"), None)
        );
        assert_eq!((found[1].name.as_str(), found[1].value), ("b", 4.5));
    }
}
