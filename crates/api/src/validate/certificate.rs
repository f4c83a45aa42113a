//! Certificate signing requests.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::cursor::At;
use super::names;
use crate::certificates::Request;
use crate::status::Cause;

const SECONDS_MIN: i64 = 600;

const USAGES: &[&str] = &[
    "any",
    "cert sign",
    "client auth",
    "code signing",
    "content commitment",
    "crl sign",
    "data encipherment",
    "decipher only",
    "digital signature",
    "email protection",
    "encipher only",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "key agreement",
    "key encipherment",
    "microsoft sgc",
    "netscape sgc",
    "ocsp signing",
    "s/mime",
    "server auth",
    "signing",
    "timestamping",
];

/// The PEM that a request object holds; empty when it holds none.
pub fn request_pem(csr: &Value) -> Vec<u8> {
    STANDARD.decode(csr["spec"]["request"].as_str().unwrap_or_default()).unwrap_or_default()
}

pub(super) fn check(csr: &At<'_>, faults: &mut Vec<Cause>) {
    let spec = csr.get("spec");
    let request = spec.get("request");
    let pem = STANDARD.decode(request.text()).unwrap_or_default();
    if request.is_empty() {
        faults.push(Cause::required(request.path, ""));
    } else if let Err(error) = Request::parse(&pem) {
        faults.push(Cause::invalid(request.path, request.value.clone(), error.to_string()));
    }
    usages(&spec.get("usages"), faults);
    signer_name(&spec.get("signerName"), faults);
    let seconds = spec.get("expirationSeconds");
    if let Some(number) = seconds.number().filter(|number| *number < SECONDS_MIN) {
        let detail = "may not specify a duration less than 600 seconds (10 minutes)";
        faults.push(Cause::invalid(seconds.path, number, detail));
    }
}

fn usages(usages: &At<'_>, faults: &mut Vec<Cause>) {
    if usages.is_empty() {
        faults.push(Cause::required(usages.path.clone(), ""));
    }
    let mut seen: Vec<&str> = Vec::new();
    for usage in usages.items() {
        if !USAGES.contains(&usage.text()) {
            faults.push(Cause::not_supported(usage.path.clone(), usage.text(), USAGES));
        } else if seen.contains(&usage.text()) {
            faults.push(Cause::duplicate(usage.path.clone(), usage.text()));
        } else {
            seen.push(usage.text());
        }
    }
}

/// As `example.com/name`.
fn signer_name(name: &At<'_>, faults: &mut Vec<Cause>) {
    let invalid = |detail: &str| Cause::invalid(name.path.clone(), name.text(), detail);
    if name.is_empty() {
        faults.push(Cause::required(name.path.clone(), ""));
        return;
    }
    if name.text() == "kubernetes.io/legacy-unknown" {
        faults.push(invalid("the legacy signerName is not allowed via this API version"));
        return;
    }
    let parts: Vec<&str> = name.text().split('/').collect();
    let &[domain, path] = parts.as_slice() else {
        let detail = "must be a fully qualified domain and path of the form 'example.com/signer-name'";
        faults.push(invalid(detail));
        return;
    };
    if !domain.contains('.') {
        faults.push(invalid("should be a domain with at least two segments separated by dots"));
    }
    for fault in [names::subdomain(domain), names::subdomain(path)].into_iter().flatten() {
        faults.push(invalid(&fault));
    }
}

/// The request stays what it was; conditions and the certificate, once there, stay.
pub(super) fn update(new: &At<'_>, old: &At<'_>, subresource: &str, faults: &mut Vec<Cause>) {
    let (status, before) = (new.get("status"), old.get("status"));
    let conditions = status.get("conditions");
    let types: BTreeSet<&str> =
        conditions.items().map(|c| c.value["type"].as_str().unwrap_or_default()).collect();
    let mut seen = BTreeSet::new();
    for condition in conditions.items() {
        let type_ = condition.get("type");
        if type_.is_empty() {
            faults.push(Cause::required(type_.path.clone(), ""));
        }
        if !seen.insert(type_.text()) {
            faults.push(Cause::duplicate(type_.path.clone(), type_.text()));
        }
        if type_.text() == "Denied" && types.contains("Approved") {
            let detail = "Approved and Denied conditions are mutually exclusive";
            faults.push(Cause::invalid(type_.path.clone(), "Denied", detail));
        }
        let state = condition.get("status");
        let decided = matches!(type_.text(), "Approved" | "Denied" | "Failed");
        match state.text() {
            "" => faults.push(Cause::required(state.path.clone(), "")),
            "True" => {}
            "False" | "Unknown" if !decided => {}
            "False" | "Unknown" => {
                faults.push(Cause::not_supported(state.path.clone(), state.text(), &["True"]))
            }
            other => {
                faults.push(Cause::not_supported(state.path.clone(), other, &["False", "True", "Unknown"]))
            }
        }
    }
    for condition in before.get("conditions").items() {
        let type_ = condition.value["type"].as_str().unwrap_or_default();
        if !types.contains(type_) {
            let detail = format!("updates may not remove a condition of type {type_:?}");
            faults.push(Cause::forbidden(conditions.path.clone(), detail));
        }
    }
    // Who signs may not decide, and who decides may not sign.
    if subresource == "status" {
        for type_ in ["Approved", "Denied"] {
            let was = before.get("conditions").items().any(|c| c.value["type"] == type_);
            if types.contains(type_) && !was {
                let detail = format!("updates may not add a condition of type {type_:?}");
                faults.push(Cause::forbidden(conditions.path.clone(), detail));
            }
        }
    }
    let (certificate, issued) = (status.get("certificate"), before.get("certificate"));
    if !issued.is_empty() && certificate.value != issued.value {
        let detail = "field is immutable";
        faults.push(Cause::invalid(certificate.path.clone(), Value::Null, detail));
    }
    if !certificate.is_empty() && certificate.value != issued.value {
        let pem = STANDARD.decode(certificate.text()).unwrap_or_default();
        if let Some(fault) = certificates_fault(&pem) {
            faults.push(Cause::invalid(certificate.path, "<certificate data>", fault));
        }
    }
}

fn certificates_fault(pem: &[u8]) -> Option<String> {
    let mut is_empty = true;
    for block in x509_parser::pem::Pem::iter_from_buffer(pem) {
        let Ok(block) = block else { return Some("must contain PEM blocks alone".into()) };
        if block.label != "CERTIFICATE" {
            return Some(format!("only CERTIFICATE PEM blocks are allowed, found {:?}", block.label));
        }
        if block.parse_x509().is_err() {
            return Some("a CERTIFICATE PEM block holds no certificate".into());
        }
        is_empty = false;
    }
    is_empty.then(|| "must contain at least one CERTIFICATE PEM block".into())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn updated(new: Value, old: Value, subresource: &str) -> Vec<String> {
        let mut faults = Vec::new();
        update(
            &At::root(&json!({"status": new})),
            &At::root(&json!({"status": old})),
            subresource,
            &mut faults,
        );
        faults.into_iter().map(|fault| format!("{}: {}", fault.field, fault.message)).collect()
    }

    fn condition(type_: &str) -> Value {
        json!({"type": type_, "status": "True"})
    }

    #[test]
    fn a_decision_is_final_and_one() {
        let approved = || json!({"conditions": [condition("Approved")]});
        assert_eq!(updated(approved(), json!({}), "approval"), Vec::<String>::new());
        assert_eq!(
            updated(json!({}), approved(), "approval"),
            ["status.conditions: Forbidden: updates may not remove a condition of type \"Approved\""]
        );
        let both = json!({"conditions": [condition("Approved"), condition("Denied")]});
        assert_eq!(
            updated(both, approved(), "approval"),
            [
                "status.conditions[1].type: Invalid value: \"Denied\": Approved and Denied conditions are mutually \
              exclusive"
            ]
        );
        assert_eq!(
            updated(approved(), json!({}), "status"),
            ["status.conditions: Forbidden: updates may not add a condition of type \"Approved\""]
        );
    }

    #[test]
    fn faults_of_a_request_are_named() {
        let csr = json!({"spec": {
            "request": "anVuaw==", "usages": ["client auth", "x", "client auth"], "signerName": "a",
            "expirationSeconds": 599}});
        let mut faults = Vec::new();
        check(&At::root(&csr), &mut faults);
        let fields: Vec<&str> = faults.iter().map(|fault| fault.field.as_str()).collect();
        assert_eq!(
            fields,
            ["spec.request", "spec.usages[1]", "spec.usages[2]", "spec.signerName", "spec.expirationSeconds"]
        );
    }

    #[test]
    fn bounds_and_names_of_a_request() {
        let faults = |spec: Value| {
            let mut whole = json!({"request": "", "usages": ["any"], "signerName": "example.com/s"});
            whole.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
            let mut faults = Vec::new();
            check(&At::root(&json!({ "spec": whole })), &mut faults);
            faults.retain(|fault| fault.field != "spec.request");
            faults.into_iter().map(|fault| format!("{}: {}", fault.field, fault.message)).collect::<Vec<_>>()
        };
        assert_eq!(faults(json!({"expirationSeconds": 600})), Vec::<String>::new());
        assert_eq!(faults(json!({"expirationSeconds": 599})).len(), 1);
        for (name, said) in [
            ("example.com/s", ""),
            ("", "Required value"),
            ("kubernetes.io/legacy-unknown", "the legacy signerName is not allowed via this API version"),
            ("a/b/c", "must be a fully qualified domain and path of the form 'example.com/signer-name'"),
            ("example/s", "should be a domain with at least two segments separated by dots"),
        ] {
            let told = faults(json!({ "signerName": name })).join("; ");
            assert!(told.ends_with(said) && told.is_empty() == said.is_empty(), "{name}: {told}");
        }
        assert_eq!(request_pem(&json!({"spec": {"request": "YWI="}})), b"ab");
        assert_eq!(request_pem(&json!({"spec": {}})), b"");
    }

    #[test]
    fn a_condition_that_decides_is_true() {
        let told = |type_: &str, status: &str| {
            updated(json!({"conditions": [{"type": type_, "status": status}]}), json!({}), "approval")
                .join("; ")
        };
        let place = "status.conditions[0].status";
        for type_ in ["Approved", "Denied", "Failed"] {
            assert_eq!(told(type_, "True"), "");
            for status in ["False", "Unknown"] {
                assert_eq!(
                    told(type_, status),
                    format!("{place}: Unsupported value: \"{status}\": supported values: \"True\"")
                );
            }
        }
        for status in ["True", "False", "Unknown"] {
            assert_eq!(told("Mine", status), "");
        }
        assert_eq!(
            told("Mine", "Maybe"),
            format!(
                "{place}: Unsupported value: \"Maybe\": supported values: \"False\", \"True\", \"Unknown\""
            )
        );
        assert_eq!(told("Mine", ""), format!("{place}: Required value"));
        assert_eq!(told("", "True"), "status.conditions[0].type: Required value");
        let twice = json!({"conditions": [condition("Mine"), condition("Mine")]});
        assert_eq!(updated(twice, json!({}), ""), ["status.conditions[1].type: Duplicate value: \"Mine\""]);
        // What was decided before may be told again by who signs.
        let approved = || json!({"conditions": [condition("Approved")]});
        assert_eq!(updated(approved(), approved(), "status"), Vec::<String>::new());
        assert_eq!(
            updated(
                json!({"conditions": [condition("Denied")]}),
                json!({"conditions": [condition("Mine")]}),
                "status"
            ),
            [
                "status.conditions: Forbidden: updates may not remove a condition of type \"Mine\"",
                "status.conditions: Forbidden: updates may not add a condition of type \"Denied\"",
            ]
        );
    }

    /// Signed by itself, of a key that nobody has.
    const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----\n\
        MIIBcDCCARWgAwIBAgIUTcFxqTojYQAZPXgPqlp5Ahoj97AwCgYIKoZIzj0EAwIw\n\
        DDEKMAgGA1UEAwwBeDAgFw0yNjExMjEyMTEyMDRaGA8yMTI2MTAyODIxMTIwNFow\n\
        DDEKMAgGA1UEAwwBeDBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABJMMDTg1T7DP\n\
        17g62Jfdz+TgZLYBEpHtJ9Hu0hRBnpsO+9YqsApriCI0+x+W4/NhPxl2FEdO4IH8\n\
        cOOyVgar7iijUzBRMB0GA1UdDgQWBBRjEJ5z3FFhMYA4TOi7P8Tnlq1O4DAfBgNV\n\
        HSMEGDAWgBRjEJ5z3FFhMYA4TOi7P8Tnlq1O4DAPBgNVHRMBAf8EBTADAQH/MAoG\n\
        CCqGSM49BAMCA0kAMEYCIQCnKE1BlSHmN/xTjpBOf2IThc2AlEgZjBVwyQMOPgF4\n\
        UgIhAIDch5NK1mzPQzipOdgm7Gwinl8L77HLbzI0gevom4+X\n\
        -----END CERTIFICATE-----\n";

    #[test]
    fn a_certificate_is_one_and_stays() {
        let with = |pem: &str| json!({"certificate": STANDARD.encode(pem)});
        let told = |new: Value, old: Value| updated(new, old, "status");
        let none = Vec::<String>::new();
        assert_eq!(told(with(CERTIFICATE), json!({})), none);
        assert_eq!(told(with(&CERTIFICATE.repeat(2)), json!({})), none);
        assert_eq!(told(with(CERTIFICATE), with(CERTIFICATE)), none);
        let fault =
            |text: &str| [format!("status.certificate: Invalid value: \"<certificate data>\": {text}")];
        let block = |label: &str| format!("-----BEGIN {label}-----\nAAAA\n-----END {label}-----\n");
        assert_eq!(
            told(with(&block("PRIVATE KEY")), json!({})),
            fault("only CERTIFICATE PEM blocks are allowed, found \"PRIVATE KEY\"")
        );
        assert_eq!(
            told(with(&block("CERTIFICATE")), json!({})),
            fault("a CERTIFICATE PEM block holds no certificate")
        );
        assert_eq!(
            told(with("nothing"), json!({})),
            fault("must contain at least one CERTIFICATE PEM block")
        );
        // What stands there already is not judged anew, and never changes.
        assert_eq!(told(with("nothing"), with("nothing")), none);
        assert_eq!(
            told(json!({}), with(CERTIFICATE)),
            ["status.certificate: Invalid value: \"null\": field is immutable"]
        );
        assert_eq!(told(with(&CERTIFICATE.repeat(2)), with(CERTIFICATE)).len(), 1);
    }
}
