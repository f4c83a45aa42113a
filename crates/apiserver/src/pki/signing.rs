//! Certificates for requests (PKCS #10): the request's subject, key and names go in as they are, byte for
//! byte, and everything else is decided here.
//!
//! The certificate is written with a plain DER writer, since the library that makes the others keeps no
//! more than one organization in a subject.

use rand::RngExt;
use rcgen::{KeyPair, SigningKey};
use x509_parser::certificate::X509Certificate;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::cri_attributes::ParsedCriAttribute;
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::FromDer;
use yasna::models::{GeneralizedTime, ObjectIdentifier, UTCTime};
use yasna::{DERWriter, Tag};

use super::{PkiError, date};

const KEY_USAGE: &[u64] = &[2, 5, 29, 15];
const EXTENDED_KEY_USAGE: &[u64] = &[2, 5, 29, 37];
const BASIC_CONSTRAINTS: &[u64] = &[2, 5, 29, 19];
const AUTHORITY_KEY: &[u64] = &[2, 5, 29, 35];
const ALTERNATIVE_NAMES: &[u64] = &[2, 5, 29, 17];

const SERVER_AUTH: &[u64] = &[1, 3, 6, 1, 5, 5, 7, 3, 1];
const CLIENT_AUTH: &[u64] = &[1, 3, 6, 1, 5, 5, 7, 3, 2];

const DIGITAL_SIGNATURE: u8 = 0b1000_0000;
const KEY_ENCIPHERMENT: u8 = 0b0010_0000;

/// What the issuer grants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// Unix seconds.
    pub not_before: i64,
    pub not_after: i64,
    /// As in a CertificateSigningRequest; those that the cluster's signers know.
    pub usages: Vec<String>,
}

pub(super) struct Authority<'a> {
    pub(super) certificate: &'a X509Certificate<'a>,
    pub(super) key: &'a KeyPair,
}

/// The certificate's DER.
pub(super) fn sign(authority: &Authority<'_>, request: &[u8], grant: &Grant) -> Result<Vec<u8>, PkiError> {
    let (_, request) = X509CertificationRequest::from_der(request).map_err(|_| PkiError::Request)?;
    request.verify_signature().map_err(|_| PkiError::Request)?;
    // The subject is copied: it must not hold a name that nobody has judged.
    if request.certification_request_info.subject.iter_common_name().count() > 1 {
        return Err(PkiError::Request);
    }
    let algorithm = algorithm(authority.key)?;
    let to_be_signed = yasna::construct_der(|writer| body(writer, authority, &request, grant, algorithm));
    let signature = authority.key.sign(&to_be_signed)?;
    Ok(yasna::construct_der(|writer| {
        writer.write_sequence(|writer| {
            writer.next().write_der(&to_be_signed);
            algorithm_identifier(writer.next(), algorithm);
            writer.next().write_bitvec_bytes(&signature, signature.len() * 8);
        });
    }))
}

/// The signature algorithm of a key, and whether its identifier has parameters (RFC 8017: an RSA one has
/// a NULL).
type Algorithm = (&'static [u64], bool);

fn algorithm(key: &KeyPair) -> Result<Algorithm, PkiError> {
    let known: [(_, Algorithm); 4] = [
        (&rcgen::PKCS_ECDSA_P256_SHA256, (&[1, 2, 840, 10045, 4, 3, 2], false)),
        (&rcgen::PKCS_ECDSA_P384_SHA384, (&[1, 2, 840, 10045, 4, 3, 3], false)),
        (&rcgen::PKCS_ED25519, (&[1, 3, 101, 112], false)),
        (&rcgen::PKCS_RSA_SHA256, (&[1, 2, 840, 113_549, 1, 1, 11], true)),
    ];
    let found = known.into_iter().find(|(algorithm, _)| key.is_compatible(algorithm));
    found.map(|(_, written)| written).ok_or(PkiError::Sign(rcgen::Error::UnsupportedSignatureAlgorithm))
}

fn algorithm_identifier(writer: DERWriter<'_>, (identifier, parameters): Algorithm) {
    writer.write_sequence(|writer| {
        writer.next().write_oid(&oid(identifier));
        if parameters {
            writer.next().write_null();
        }
    });
}

/// TBSCertificate (RFC 5280 §4.1).
fn body(
    writer: DERWriter<'_>,
    authority: &Authority<'_>,
    request: &X509CertificationRequest<'_>,
    grant: &Grant,
    algorithm: Algorithm,
) {
    let info = &request.certification_request_info;
    let serial: [u8; 16] = rand::rng().random();
    writer.write_sequence(|writer| {
        writer.next().write_tagged(Tag::context(0), |writer| writer.write_u8(2));
        writer.next().write_bigint_bytes(&serial, true);
        algorithm_identifier(writer.next(), algorithm);
        writer.next().write_der(authority.certificate.subject().as_raw());
        writer.next().write_sequence(|writer| {
            time(writer.next(), grant.not_before);
            time(writer.next(), grant.not_after);
        });
        writer.next().write_der(info.subject.as_raw());
        writer.next().write_der(info.subject_pki.raw);
        writer.next().write_tagged(Tag::context(3), |writer| {
            writer.write_sequence(|writer| {
                let (bits, purposes) = usages(&grant.usages);
                extension(writer.next(), KEY_USAGE, true, |writer| {
                    // Named bits have no trailing zeros in DER.
                    writer.write_bitvec_bytes(&[bits], 8 - bits.trailing_zeros() as usize);
                });
                if !purposes.is_empty() {
                    extension(writer.next(), EXTENDED_KEY_USAGE, false, |writer| {
                        writer.write_sequence(|writer| {
                            purposes.iter().for_each(|purpose| writer.next().write_oid(&oid(purpose)));
                        });
                    });
                }
                extension(writer.next(), BASIC_CONSTRAINTS, true, |writer| writer.write_sequence(|_| ()));
                if let Some(key) = key_identifier(authority.certificate) {
                    extension(writer.next(), AUTHORITY_KEY, false, |writer| {
                        writer.write_sequence(|writer| {
                            writer
                                .next()
                                .write_tagged_implicit(Tag::context(0), |writer| writer.write_bytes(key));
                        });
                    });
                }
                if let Some(names) = alternative_names(request) {
                    extension(writer.next(), ALTERNATIVE_NAMES, false, |writer| writer.write_der(names));
                }
            });
        });
    });
}

/// The bits of the key usage, and the extended ones.
fn usages(granted: &[String]) -> (u8, Vec<&'static [u64]>) {
    let mut bits = 0;
    let mut purposes: Vec<&'static [u64]> = Vec::new();
    for usage in granted {
        match usage.as_str() {
            "digital signature" | "signing" => bits |= DIGITAL_SIGNATURE,
            "key encipherment" => bits |= KEY_ENCIPHERMENT,
            "server auth" => purposes.push(SERVER_AUTH),
            "client auth" => purposes.push(CLIENT_AUTH),
            _ => {}
        }
    }
    // A usage without any bit is malformed; every key that is shown in TLS signs.
    (if bits == 0 { DIGITAL_SIGNATURE } else { bits }, purposes)
}

fn extension(writer: DERWriter<'_>, id: &[u64], critical: bool, value: impl FnOnce(DERWriter<'_>)) {
    writer.write_sequence(|writer| {
        writer.next().write_oid(&oid(id));
        if critical {
            writer.next().write_bool(true);
        }
        writer.next().write_bytes(&yasna::construct_der(value));
    });
}

fn oid(components: &[u64]) -> ObjectIdentifier {
    ObjectIdentifier::from_slice(components)
}

/// Years up to 2049 are written shorter (RFC 5280 §4.1.2.5).
fn time(writer: DERWriter<'_>, seconds: i64) {
    let at = date(seconds);
    match UTCTime::from_datetime_opt(at) {
        Some(short) => writer.write_utctime(&short),
        None => writer.write_generalized_time(&GeneralizedTime::from_datetime(at)),
    }
}

fn key_identifier<'a>(certificate: &'a X509Certificate<'a>) -> Option<&'a [u8]> {
    certificate.iter_extensions().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::SubjectKeyIdentifier(key) => Some(key.0),
        _ => None,
    })
}

fn alternative_names<'a>(request: &'a X509CertificationRequest<'a>) -> Option<&'a [u8]> {
    let attributes = request.certification_request_info.iter_attributes();
    let extensions = attributes.filter_map(|attribute| match attribute.parsed_attribute() {
        ParsedCriAttribute::ExtensionRequest(request) => Some(&request.extensions),
        _ => None,
    });
    extensions.flatten().find_map(|extension| {
        matches!(extension.parsed_extension(), ParsedExtension::SubjectAlternativeName(_))
            .then_some(extension.value)
    })
}
