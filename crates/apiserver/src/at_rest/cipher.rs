//! The ciphers of upstream's encryption providers, with upstream's payloads, so that either can read what
//! the other has written.
//!
//! | provider | payload |
//! |---|---|
//! | `aesgcm` | nonce (12 bytes), ciphertext, tag (16) |
//! | `aescbc` | initialization vector (16), ciphertext padded by PKCS #7. Not authenticated |
//! | `secretbox` | nonce (24), tag (16), ciphertext: NaCl's XSalsa20 and Poly1305 |
//!
//! Only `aesgcm` binds a payload to its key in the store, so that nobody who can write to the file can
//! swap two of them.

use aes::cipher::block_padding::Pkcs7;
use aes::cipher::{BlockModeDecrypt, BlockModeEncrypt, KeyIvInit, StreamCipher};
use aes::{Aes128, Aes192, Aes256};
use aes_gcm::aead::{Aead, Payload, consts::U12};
use aes_gcm::{Aes128Gcm, Aes256Gcm, AesGcm, KeyInit, Nonce};
use poly1305::Poly1305;
use rand::Rng;
use salsa20::XSalsa20;

const GCM_NONCE: usize = 12;
const CBC_BLOCK: usize = 16;
const BOX_NONCE: usize = 24;
const BOX_TAG: usize = 16;

/// A cipher with its key.
pub(crate) enum Cipher {
    Gcm128(Box<Aes128Gcm>),
    Gcm192(Box<AesGcm<Aes192, U12>>),
    Gcm256(Box<Aes256Gcm>),
    /// The key, of 16, 24 or 32 bytes.
    Cbc(Vec<u8>),
    Secretbox([u8; 32]),
}

impl Cipher {
    /// AES in Galois/counter mode. `None` for a key of another length than 16, 24 or 32 bytes.
    pub(crate) fn gcm(key: &[u8]) -> Option<Self> {
        match key.len() {
            16 => Aes128Gcm::new_from_slice(key).ok().map(Box::new).map(Self::Gcm128),
            24 => AesGcm::new_from_slice(key).ok().map(Box::new).map(Self::Gcm192),
            32 => Aes256Gcm::new_from_slice(key).ok().map(Box::new).map(Self::Gcm256),
            _ => None,
        }
    }

    /// AES in cipher block chaining mode. `None` for a key of another length than 16, 24 or 32 bytes.
    pub(crate) fn cbc(key: &[u8]) -> Option<Self> {
        matches!(key.len(), 16 | 24 | 32).then(|| Self::Cbc(key.to_vec()))
    }

    /// `None` for a key of another length than 32 bytes.
    pub(crate) fn secretbox(key: &[u8]) -> Option<Self> {
        key.try_into().ok().map(Self::Secretbox)
    }

    /// Encrypts; `associated` is what the payload is bound to, where the cipher can.
    pub(crate) fn seal(&self, associated: &[u8], plain: &[u8]) -> Vec<u8> {
        match self {
            Self::Gcm128(cipher) => seal_gcm(&**cipher, associated, plain),
            Self::Gcm192(cipher) => seal_gcm(&**cipher, associated, plain),
            Self::Gcm256(cipher) => seal_gcm(&**cipher, associated, plain),
            Self::Cbc(key) => seal_cbc(key, &random::<CBC_BLOCK>(), plain),
            Self::Secretbox(key) => seal_box(key, &random::<BOX_NONCE>(), plain),
        }
    }

    /// `None` for another key, and for a damaged payload where the cipher can tell.
    pub(crate) fn open(&self, associated: &[u8], payload: &[u8]) -> Option<Vec<u8>> {
        match self {
            Self::Gcm128(cipher) => open_gcm(&**cipher, associated, payload),
            Self::Gcm192(cipher) => open_gcm(&**cipher, associated, payload),
            Self::Gcm256(cipher) => open_gcm(&**cipher, associated, payload),
            Self::Cbc(key) => open_cbc(key, payload),
            Self::Secretbox(key) => open_box(key, payload),
        }
    }
}

pub(crate) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    rand::rng().fill_bytes(&mut bytes);
    bytes
}

fn seal_gcm<C: Aead<NonceSize = U12>>(cipher: &C, associated: &[u8], plain: &[u8]) -> Vec<u8> {
    let nonce = random::<GCM_NONCE>();
    let payload = Payload { msg: plain, aad: associated };
    let sealed = cipher
        .encrypt(&Nonce::from(nonce), payload)
        .expect("AES-GCM fails only beyond 64 GiB, and objects are bounded to MiB");
    [&nonce[..], &sealed].concat()
}

fn open_gcm<C: Aead<NonceSize = U12>>(cipher: &C, associated: &[u8], payload: &[u8]) -> Option<Vec<u8>> {
    let (nonce, sealed) = payload.split_first_chunk::<GCM_NONCE>()?;
    cipher.decrypt(&Nonce::from(*nonce), Payload { msg: sealed, aad: associated }).ok()
}

fn seal_cbc(key: &[u8], vector: &[u8; CBC_BLOCK], plain: &[u8]) -> Vec<u8> {
    const FITS: &str = "the lengths of keys are checked when they are read";
    let sealed = match key.len() {
        16 => cbc::Encryptor::<Aes128>::new_from_slices(key, vector)
            .expect(FITS)
            .encrypt_padded_vec::<Pkcs7>(plain),
        24 => cbc::Encryptor::<Aes192>::new_from_slices(key, vector)
            .expect(FITS)
            .encrypt_padded_vec::<Pkcs7>(plain),
        _ => cbc::Encryptor::<Aes256>::new_from_slices(key, vector)
            .expect(FITS)
            .encrypt_padded_vec::<Pkcs7>(plain),
    };
    [&vector[..], &sealed].concat()
}

fn open_cbc(key: &[u8], payload: &[u8]) -> Option<Vec<u8>> {
    let (vector, sealed) = payload.split_first_chunk::<CBC_BLOCK>()?;
    match key.len() {
        16 => cbc::Decryptor::<Aes128>::new_from_slices(key, vector)
            .ok()?
            .decrypt_padded_vec::<Pkcs7>(sealed)
            .ok(),
        24 => cbc::Decryptor::<Aes192>::new_from_slices(key, vector)
            .ok()?
            .decrypt_padded_vec::<Pkcs7>(sealed)
            .ok(),
        _ => cbc::Decryptor::<Aes256>::new_from_slices(key, vector)
            .ok()?
            .decrypt_padded_vec::<Pkcs7>(sealed)
            .ok(),
    }
}

/// The stream, and the authenticator that its first 32 bytes are the key of.
fn box_parts(key: &[u8; 32], nonce: &[u8; BOX_NONCE]) -> (XSalsa20, Poly1305) {
    let mut stream = XSalsa20::new(key.into(), nonce.into());
    let mut first = [0; 32];
    stream.apply_keystream(&mut first);
    (stream, Poly1305::new(&first.into()))
}

fn seal_box(key: &[u8; 32], nonce: &[u8; BOX_NONCE], plain: &[u8]) -> Vec<u8> {
    let (mut stream, authenticator) = box_parts(key, nonce);
    let mut sealed = plain.to_vec();
    stream.apply_keystream(&mut sealed);
    let tag = authenticator.compute_unpadded(&sealed);
    [&nonce[..], &tag[..], &sealed].concat()
}

fn open_box(key: &[u8; 32], payload: &[u8]) -> Option<Vec<u8>> {
    let (nonce, rest) = payload.split_first_chunk::<BOX_NONCE>()?;
    let (tag, sealed) = rest.split_first_chunk::<BOX_TAG>()?;
    let (mut stream, authenticator) = box_parts(key, nonce);
    let computed = authenticator.compute_unpadded(sealed);
    // No early end: how long a comparison takes must not tell how much of a tag was right.
    let differs = computed.iter().zip(tag).fold(0, |differs, (a, b)| differs | (a ^ b));
    if differs != 0 {
        return None;
    }
    let mut plain = sealed.to_vec();
    stream.apply_keystream(&mut plain);
    Some(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(hex: &str) -> Vec<u8> {
        let digits: Vec<u32> = hex.chars().filter_map(|c| c.to_digit(16)).collect();
        digits.chunks(2).map(|pair| (pair[0] * 16 + pair[1]) as u8).collect()
    }

    /// The known answers of NIST's and NaCl's own test vectors.
    #[test]
    fn known_answers() {
        // SP 800-38A, F.2.1: CBC-AES128.Encrypt, first block (and the padding after it left out).
        let key = bytes("2b7e151628aed2a6abf7158809cf4f3c");
        let vector: [u8; 16] = bytes("000102030405060708090a0b0c0d0e0f").try_into().expect("16 bytes");
        let sealed = seal_cbc(&key, &vector, &bytes("6bc1bee22e409f96e93d7e117393172a"));
        assert_eq!(sealed[16..32], bytes("7649abac8119b246cee98e9b12e9197d"));
        assert_eq!(sealed.len(), 48);
        // The GCM specification's test case 16: 256-bit key, 96-bit nonce, associated data.
        let cipher = Cipher::gcm(&bytes("feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308"));
        let payload = bytes(
            "cafebabefacedbaddecaf888\
             522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662\
             76fc6ece0f4e1768cddf8853bb2d551b",
        );
        let associated = bytes("feedfacedeadbeeffeedfacedeadbeefabaddad2");
        let plain = cipher.expect("32 bytes").open(&associated, &payload).expect("it opens");
        assert_eq!(plain[..16], bytes("d9313225f88406e5a55909c5aff5269a"));
        // NaCl's tests/secretbox.c.
        let key = bytes("1b27556473e985d462cd51197a9a46c76009549eac6474f206c4ee0844f68389");
        let nonce = "69696ee955b62b73cd62bda875fc73d68219e0036b7a0b37";
        let sealed = "f3ffc7703f9400e52a7dfb4b3d3305d98e993b9f48681273c29650ba32fc76ce48332ea7164d96a4476fb8c531a1186ac0dfc17c98dce87b4da7f011ec48c97271d2c20f9b928fe2270d6fb863d51738b48eeee314a7cc8ab932164548e526ae90224368517acfeabd6bb3732bc0e9da99832b61ca01b6de56244a9e88d5f9b37973f622a43d14a6599b1f654cb45a74e355a5";
        let payload = bytes(&format!("{nonce}{sealed}"));
        let plain = Cipher::secretbox(&key).expect("32 bytes").open(b"", &payload).expect("it opens");
        assert_eq!(plain[..16], bytes("be075fc53c81f2d5cf141316ebeb0c7b"));
        assert_eq!(plain.len(), 131);
        let again =
            seal_box(&key.try_into().expect("32 bytes"), &bytes(nonce).try_into().expect("24"), &plain);
        assert_eq!(again, payload);
    }

    #[test]
    fn every_cipher_opens_its_own_and_no_other_s() {
        type Make = fn(&[u8]) -> Option<Cipher>;
        let makes: [Make; 3] = [Cipher::gcm, Cipher::cbc, Cipher::secretbox];
        for make in makes {
            for length in [16, 24, 32] {
                let Some(cipher) = make(&vec![7; length]) else { continue };
                let other = make(&vec![8; length]).expect("the same length");
                for plain in [&b""[..], b"x", b"sixteen bytes !!", &[9; 1000]] {
                    let payload = cipher.seal(b"/secrets/n/a", plain);
                    assert_ne!(payload, cipher.seal(b"/secrets/n/a", plain), "nonces are never the same");
                    assert_eq!(cipher.open(b"/secrets/n/a", &payload).as_deref(), Some(plain));
                    assert_ne!(other.open(b"/secrets/n/a", &payload).as_deref(), Some(plain));
                    assert_ne!(cipher.open(b"", &payload[..payload.len() - 1]).as_deref(), Some(plain));
                }
                assert!(cipher.open(b"", b"short").is_none());
            }
        }
        for wrong in [0, 15, 31, 33] {
            assert!(Cipher::gcm(&vec![0; wrong]).is_none() && Cipher::cbc(&vec![0; wrong]).is_none());
            assert!(Cipher::secretbox(&vec![0; wrong]).is_none());
        }
    }

    #[test]
    fn a_payload_belongs_to_its_key_in_the_store() {
        let cipher = Cipher::gcm(&[7; 32]).expect("32 bytes");
        let payload = cipher.seal(b"/secrets/n/a", b"plain");
        assert!(cipher.open(b"/secrets/n/b", &payload).is_none());
    }
}
