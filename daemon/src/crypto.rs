//! The one TLS provider of a process.

/// Makes ring the provider of everything that uses rustls. HTTP and gRPC clients panic when they
/// open a TLS connection without one. Calling it again changes nothing.
pub fn install_crypto_provider() {
    // An error means that a provider is installed already, and nobody installs another one.
    drop(rustls::crypto::ring::default_provider().install_default());
}
