//! Answers that went well.

use serde::Serialize;
use warp::http::header::{CACHE_CONTROL, CONTENT_TYPE, LOCATION};
use warp::http::{HeaderValue, StatusCode};
use warp::reply::Response;

use super::problem::{Code, Problem};

pub fn json<T: Serialize>(value: &T) -> Result<Response, Problem> {
    with_status(StatusCode::OK, value)
}

pub fn with_status<T: Serialize>(status: StatusCode, value: &T) -> Result<Response, Problem> {
    let body = serde_json::to_vec(value).map_err(|error| {
        tracing::error!(%error, "answer does not serialise");
        Problem::new(Code::Internal, "the answer could not be written")
    })?;
    let mut response = text("application/json", body);
    *response.status_mut() = status;
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

/// 201, or 200 for what was there before; either way it says where.
pub fn placed<T: Serialize>(created: bool, location: &str, value: &T) -> Result<Response, Problem> {
    let mut response = with_status(if created { StatusCode::CREATED } else { StatusCode::OK }, value)?;
    if let Ok(location) = HeaderValue::from_str(location) {
        response.headers_mut().insert(LOCATION, location);
    }
    Ok(response)
}

pub fn text(content_type: &'static str, body: impl Into<Vec<u8>>) -> Response {
    let mut response = Response::new(body.into().into());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

pub fn empty() -> Response {
    let mut response = Response::default();
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}
