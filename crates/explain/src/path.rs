//! Paths of the group's requests.

/// A name or a value as one part of a path or of a query (RFC 3986, unreserved characters).
///
/// ```
/// use skiff_explain::path::encoded;
/// assert_eq!(encoded("web-1.a"), "web-1.a");
/// assert_eq!(encoded("a/b ?"), "a%2Fb%20%3F");
/// ```
pub fn encoded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    let each = |byte: u8| if plain(byte) { (byte as char).to_string() } else { format!("%{byte:02X}") };
    text.bytes().map(each).collect()
}
