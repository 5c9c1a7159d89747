//! Metrics and probes over HTTP.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};

use crate::SOON;

/// An answer to a GET.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The body.
    pub body: String,
}

/// Gets `http://ADDRESS/PATH`.
pub async fn get(address: &str, path: &str) -> Result<Answer> {
    // Only the first of many tests in a process installs it; the others find it there.
    drop(rustls::crypto::ring::default_provider().install_default());
    let client = reqwest::Client::builder().timeout(SOON).build()?;
    let response = client.get(format!("http://{address}{path}")).send().await?;
    Ok(Answer {
        status: response.status().as_u16(),
        body: response.text().await?,
    })
}

/// The samples of one metric by the value of one label (empty without that label).
pub fn samples(metrics: &str, metric: &str, label: &str) -> Result<BTreeMap<String, f64>> {
    let needle = format!("{label}=\"");
    metrics
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.rsplit_once(' '))
        .filter(|(series, _)| series.split('{').next() == Some(metric))
        .map(|(series, value)| {
            let labelled = series
                .split_once(&needle)
                .and_then(|(_, rest)| rest.split('"').next())
                .unwrap_or_default();
            let value = value
                .parse()
                .with_context(|| format!("{series} has value {value}"))?;
            Ok((labelled.to_owned(), value))
        })
        .collect()
}
