//! The live page at `/`, the same for every daemon: it reads `/status` and `/events`, and shows
//! what it finds there.
//!
//! Style and script are part of the page, and the policy names both by their digests: nothing else
//! runs in it, and it asks nobody but its own daemon.

use std::sync::LazyLock;

use aws_lc_rs::digest::{SHA256, digest};
use axum::http::HeaderValue;
use axum::http::header::CONTENT_SECURITY_POLICY;
use axum::response::{Html, IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

const BODY: &str = include_str!("live/index.html");
const STYLE: &str = include_str!("live/style.css");
/// One script in the order in which its parts need each other.
const SCRIPT: &str = concat!(
    "\"use strict\";\n",
    include_str!("live/words.js"),
    include_str!("live/model.js"),
    include_str!("live/draw.js"),
    include_str!("live/picture.js"),
    include_str!("live/row.js"),
    include_str!("live/page.js"),
);

/// The page with its policy, made once.
static PAGE: LazyLock<(String, HeaderValue)> = LazyLock::new(|| {
    let html = format!(
        "<!doctype html><html lang=\"en\" data-theme=\"light\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <title>Session</title><style>{STYLE}</style></head><body>{BODY}\
         <script type=\"module\">{SCRIPT}</script></body></html>\n"
    );
    let policy = format!(
        "default-src 'none'; style-src '{}'; script-src '{}'; connect-src 'self'; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
         require-trusted-types-for 'script'",
        source(STYLE),
        source(SCRIPT)
    );
    (html, HeaderValue::try_from(policy).expect("a policy of ASCII is a header's value"))
});

/// How a policy names an inline text: by its digest.
fn source(text: &str) -> String {
    format!("sha256-{}", STANDARD.encode(digest(&SHA256, text.as_bytes())))
}

/// `GET /`
pub(super) async fn live() -> Response {
    let (html, policy) = &*PAGE;
    ([(CONTENT_SECURITY_POLICY, policy.clone())], Html(html.as_str())).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_in_the_page_comes_from_outside_or_ends_its_script_early() {
        let (html, policy) = &*PAGE;
        assert_eq!(html.matches("</script>").count(), 1);
        assert_eq!(html.matches("</style>").count(), 1);
        let svg = "http://www.w3.org/2000/svg"; // A name, not a place.
        let outside = html.replace(svg, "");
        assert!(!outside.contains("http://") && !outside.contains("https://"));
        assert!(!html.contains("innerHTML") && !html.contains(" style=\""));
        let policy = policy.to_str().expect("ASCII");
        assert!(!policy.contains("unsafe-"), "{policy}");
    }
}
