//! Signatures of the Standard Webhooks specification: `v1,` and the HMAC-SHA256, in base64, of
//! `{id}.{timestamp}.{body}`. Several secrets sign the same request while one replaces another, so
//! that a receiver may change over whenever it likes.

use base64::{
    Engine as _,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig, general_purpose::STANDARD},
};
use ring::hmac;

use super::{SinkError, secret};

const PREFIX: &str = "whsec_";
/// What the specification admits, in bytes.
const LENGTHS: std::ops::RangeInclusive<usize> = 24..=64;

/// With or without the padding: both are in use.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Signs with every secret.
pub(super) struct Signer {
    keys: Vec<hmac::Key>,
}

impl Signer {
    /// Resolves the references to the secrets. An error shows none of them.
    pub(super) fn new(secrets: &[String]) -> Result<Self, SinkError> {
        let key = |(index, text): (usize, &String)| {
            let setting = format!("signing_secrets[{index}]");
            let resolved = secret::resolve(&setting, text)?;
            let wrong = |what: String| SinkError::misconfigured(format!("{setting}: {what}"));
            let encoded = resolved
                .strip_prefix(PREFIX)
                .ok_or_else(|| wrong(format!("does not begin with {PREFIX}")))?;
            let bytes = LENIENT
                .decode(encoded)
                .map_err(|_| wrong(format!("what follows {PREFIX} is not base64")))?;
            if !LENGTHS.contains(&bytes.len()) {
                return Err(wrong(format!(
                    "holds {} bytes, not {} to {}",
                    bytes.len(),
                    LENGTHS.start(),
                    LENGTHS.end()
                )));
            }
            Ok(hmac::Key::new(hmac::HMAC_SHA256, &bytes))
        };
        let keys = secrets
            .iter()
            .enumerate()
            .map(key)
            .collect::<Result<_, _>>()?;
        Ok(Self { keys })
    }

    /// The value of `webhook-signature`; none if there are no secrets. `timestamp` is in seconds
    /// since 1970.
    pub(super) fn sign(&self, id: &str, timestamp: i64, body: &[u8]) -> Option<String> {
        let signatures: Vec<String> = self
            .keys
            .iter()
            .map(|key| {
                let mut signed = hmac::Context::with_key(key);
                signed.update(format!("{id}.{timestamp}.").as_bytes());
                signed.update(body);
                format!("v1,{}", STANDARD.encode(signed.sign()))
            })
            .collect();
        (!signatures.is_empty()).then(|| signatures.join(" "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signer(secrets: &[&str]) -> Result<Signer, String> {
        let secrets: Vec<String> = secrets.iter().map(|&one| one.to_owned()).collect();
        Signer::new(&secrets).map_err(|error| error.to_string())
    }

    /// The example of the specification's own libraries.
    #[test]
    fn signs_as_the_specification_does() {
        let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
        let body = br#"{"test": 2432232314}"#;
        let id = "msg_p5jXN8AQM9LWM0D4loKWxJek";
        let signed = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";
        let one = signer(&[secret]).unwrap();
        assert_eq!(one.sign(id, 1_614_265_330, body).as_deref(), Some(signed));
        let two = signer(&[secret, secret]).unwrap();
        let both = format!("{signed} {signed}");
        assert_eq!(two.sign(id, 1_614_265_330, body), Some(both));
        assert_eq!(signer(&[]).unwrap().sign(id, 1, body), None);
    }

    #[test]
    fn says_what_is_wrong_with_a_secret_and_does_not_show_it() {
        for (secret, what) in [
            ("Z2VoZWlt", "does not begin with whsec_"),
            ("whsec_?", "what follows whsec_ is not base64"),
            ("whsec_Z2VoZWlt", "holds 6 bytes, not 24 to 64"),
            (
                "${env:TIDE_NO_SUCH_SECRET}",
                "environment variable TIDE_NO_SUCH_SECRET is not set",
            ),
        ] {
            let Err(error) = signer(&[secret]) else {
                panic!("{secret} was taken");
            };
            assert_eq!(error, format!("signing_secrets[0]: {what}"));
        }
    }
}
