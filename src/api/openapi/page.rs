//! The contract as a page to read: plain HTML, made from the routes.

use std::fmt::Write as _;

use super::super::problem::Code;
use super::super::route::Route;
use super::{codes, tag};

const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;\
color:#1b1f24;background:#fff}code{font-family:ui-monospace,monospace}h2{margin-top:2.5rem}\
details{border-bottom:1px solid #d8dee4;padding:.4rem 0}summary{cursor:pointer}\
table{border-collapse:collapse;width:100%}td,th{text-align:left;vertical-align:top;padding:.25rem .8rem .25rem 0}\
.m{display:inline-block;width:4.5rem;font-weight:600}:target{background:#fff8c5}\
@media(prefers-color-scheme:dark){body{color:#e6edf3;background:#0d1117}a{color:#6cb6ff}\
details{border-color:#30363d}:target{background:#3b2e00}}";

/// The page.
pub fn of(routes: &[Route], version: &str) -> String {
    let mut page = format!(
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content=\"width=device-width\">\
         <title>ciro-coordinator API</title><style>{STYLE}</style>\
         <h1>ciro-coordinator API</h1><p>Version {}. Every node serves all of it. \
         The full contract is <a href=/openapi.json>/openapi.json</a>; the node at work is on <a href=/>the dashboard</a>.",
        escaped(version)
    );
    let mut last = "";
    for route in routes {
        if tag(route) != last {
            last = tag(route);
            let _ = write!(page, "<h2 id=\"routes-{last}\">{last}</h2>");
        }
        write_route(&mut page, route);
    }
    page.push_str("<h2 id=problems>Problems</h2><p>Errors are problem documents (RFC 9457); their <code>type</code> leads here.<table>");
    for code in Code::ALL {
        let _ = write!(
            page,
            "<tr id=\"{name}\"><td>{}<td><code>{name}</code><td>{}. {}",
            code.status(),
            escaped(code.title()),
            escaped(code.hint()),
            name = code.as_str(),
        );
    }
    page.push_str("</table></html>");
    page
}

fn write_route(page: &mut String, route: &Route) {
    let _ = write!(
        page,
        "<details><summary><code><span class=m>{}</span> {}</code> — {}</summary><table>",
        route.method,
        route.path,
        escaped(route.summary)
    );
    for param in &route.params {
        let schema = param.schema().to_string();
        let _ = write!(
            page,
            "<tr><td><code>{}</code><td>{}<td><code>{}</code>",
            param.name,
            escaped(param.about),
            escaped(&schema)
        );
    }
    for header in &route.headers {
        let _ = write!(
            page,
            "<tr><td><code>{}</code> header<td>{}<td><code>{}</code>",
            header.name,
            escaped(header.about),
            escaped(header.pattern)
        );
    }
    if let Some(body) = &route.body {
        let _ = write!(page, "<tr><td>body<td>{}, at most {} bytes<td>", body.media.join(" or "), body.limit);
        for schema in &body.schemas {
            let _ = write!(page, "<code>{}</code> ", escaped(&schema.to_string()));
        }
    }
    for answer in &route.answers {
        let _ = write!(page, "<tr><td>{}<td>{}<td>", answer.status, escaped(answer.about));
        for (media, schema) in &answer.content {
            let _ = write!(page, "{media} <code>{}</code> ", escaped(&schema.to_string()));
        }
    }
    for code in codes(route) {
        let name = code.as_str();
        let title = escaped(code.title());
        let _ = write!(page, "<tr><td>{}<td>{title}<td><a href=\"#{name}\"><code>{name}</code></a>", code.status());
    }
    page.push_str("</table></details>");
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
