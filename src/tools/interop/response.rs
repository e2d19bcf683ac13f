//! Responses of the interop test API.

use super::api::Reply;

/// A response: HTTP status and body.
pub type ApiResponse = Box<(u16, Reply)>;

/// A response to a valid request, successful or not: always 200.
pub fn ok_response(reply: Reply) -> ApiResponse {
    Box::new((200, reply))
}

/// A response to an invalid request.
pub fn bad_request(why: impl ToString) -> ApiResponse {
    Box::new((400, Reply::error(why)))
}
