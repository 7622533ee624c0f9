// SPDX-License-Identifier: Apache-2.0
//! What each path answers.

use std::fmt;

use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};

use super::ask::{self, CLIENTS, DUMP, FLUSH, GET, STATS, STATUS};
use super::body::Body;
use super::{AdminState, Pages, RETIRE, Retired};
use crate::lifecycle::ready::Reasons;
use crate::telemetry::clock::Clock;
use crate::telemetry::exposition;

const TEXT: &str = "text/plain; charset=utf-8";

impl Pages {
    /// The paths with what they are good for.
    fn paths(self) -> &'static [(&'static str, &'static str)] {
        const ALL: [(&str, &str); 12] = [
            ("/healthz", "whether the process is worth keeping"),
            ("/readyz", "whether queries may be sent here"),
            ("/health", "/healthz, as CoreDNS calls it"),
            ("/ready", "/readyz, as CoreDNS calls it"),
            ("/metrics", "figures for Prometheus"),
            (RETIRE, "POST: steer and mend no more, and keep answering"),
            (CLIENTS, "when each listen address was last asked"),
            (STATUS, "the agent on one page, as JSON"),
            (STATS, "the cache in figures"),
            (GET, "?name=NAME[&type=TYPE]: what is known of a name"),
            (DUMP, "[?zone=ZONE]: every entry, a line each"),
            (FLUSH, "POST, ?name=NAME, ?zone=ZONE or ?all: forget"),
        ];
        match self {
            Self::Health => &ALL[..4],
            Self::Metrics => &ALL[4..5],
            Self::All => &ALL[..5],
            Self::Control => &ALL,
        }
    }

    fn list(self) -> String {
        self.paths()
            .iter()
            .map(|(path, use_)| format!("{path}  {use_}\n"))
            .collect()
    }
}

impl fmt::Display for Pages {
    /// The paths, separated by commas.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let paths: Vec<_> = self.paths().iter().map(|&(path, _)| path).collect();
        f.write_str(&paths.join(", "))
    }
}

/// Answers one request. Its body is not read: no page takes one.
pub(super) async fn answer<B>(
    request: &Request<B>,
    pages: Pages,
    state: &AdminState,
) -> Response<Body> {
    let path = request.uri().path();
    if path != "/" && !pages.paths().iter().any(|&(known, _)| known == path) {
        let text = format!("no such page here; there are\n{}", pages.list());
        return page(StatusCode::NOT_FOUND, text);
    }
    // hyper leaves the body away for HEAD.
    let (is_allowed, allowed) = match path {
        RETIRE | FLUSH => (*request.method() == Method::POST, "POST"),
        // HEAD would make all of a dump for nobody.
        DUMP => (*request.method() == Method::GET, "GET"),
        _ => (
            matches!(*request.method(), Method::GET | Method::HEAD),
            "GET, HEAD",
        ),
    };
    if !is_allowed {
        let mut refusal = page(StatusCode::METHOD_NOT_ALLOWED, format!("{allowed}\n"));
        refusal
            .headers_mut()
            .insert(ALLOW, HeaderValue::from_static(allowed));
        return refusal;
    }
    match path {
        RETIRE => retired((state.retire)().await),
        CLIENTS | STATUS | STATS | GET | DUMP | FLUSH => {
            let query = request.uri().query().unwrap_or_default();
            ask::answer(path, query, state).await
        }
        "/healthz" | "/health" => verdict(state.health.live(Clock.now_ns())),
        "/readyz" | "/ready" => verdict(state.health.ready(Clock.now_ns())),
        "/metrics" => {
            let mut metrics = page(StatusCode::OK, state.telemetry.expose());
            let content_type = HeaderValue::from_static(exposition::CONTENT_TYPE);
            metrics.headers_mut().insert(CONTENT_TYPE, content_type);
            metrics
        }
        _ => {
            let title = concat!("nodens ", env!("CARGO_PKG_VERSION"), "\n\n");
            page(StatusCode::OK, title.to_owned() + &pages.list())
        }
    }
}

fn retired(retired: Retired) -> Response<Body> {
    let (status, text) = match retired {
        Retired::Done => (
            StatusCode::OK,
            "retired: nothing is steered here or mended any more; queries are still answered\n",
        ),
        Retired::WasOff => (
            StatusCode::OK,
            "nothing to do: intercept.enabled is false\n",
        ),
        Retired::NotYet => (
            StatusCode::GATEWAY_TIMEOUT,
            "the kernel has not let go yet: the pulse thread does not answer; try again\n",
        ),
    };
    page(status, text.to_owned())
}

fn verdict(verdict: Result<(), Reasons>) -> Response<Body> {
    match verdict {
        Ok(()) => page(StatusCode::OK, "ok\n".to_owned()),
        Err(reasons) => page(StatusCode::SERVICE_UNAVAILABLE, format!("{reasons}\n")),
    }
}

pub(super) fn page(status: StatusCode, text: String) -> Response<Body> {
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(TEXT));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
