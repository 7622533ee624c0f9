// SPDX-License-Identifier: Apache-2.0
//! Files with the certificates of authorities, PEM (RFC 7468).

use std::path::{Path, PathBuf};

use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::limits;
use super::resolv_conf::Unusable;
use super::source::read_text;

/// Where systems keep the authorities that they trust: Debian, Fedora, SUSE, Alpine and the images
/// made from them.
const OF_SYSTEMS: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// The file with the authorities that this system trusts.
///
/// # Errors
/// There is none at any of the usual places.
pub(super) fn of_system() -> Result<PathBuf, Unusable> {
    let mut places = OF_SYSTEMS.iter().map(PathBuf::from);
    places.find(|path| path.is_file()).ok_or_else(|| Unusable {
        message: format!(
            "found no file with the system's authorities at {}, expected one",
            OF_SYSTEMS.join(", ")
        ),
        remedy: "name the file with the authorities to trust in caFile, or install the package \
                 ca-certificates"
            .to_owned(),
    })
}

/// Reads a file.
///
/// # Errors
/// It cannot be read, is not PEM, or has no certificate of an authority.
pub fn read(path: &Path) -> Result<RootCertStore, Unusable> {
    let unusable = |message: String, remedy: &str| Unusable {
        message,
        remedy: remedy.to_owned(),
    };
    let what = "PEM file with certificates of authorities";
    if std::fs::metadata(path).is_ok_and(|file| !file.is_file() && !file.is_dir()) {
        return Err(unusable(
            format!("found a device, a pipe or a socket, expected a {what}"),
            "name a regular file",
        ));
    }
    let text = read_text(path, limits::MAX_CA_FILE_BYTES).map_err(|reason| {
        let (message, remedy) = reason.explain(what);
        Unusable { message, remedy }
    })?;
    let mut roots = RootCertStore::empty();
    let mut problem = None;
    for (number, certificate) in (1..).zip(CertificateDer::pem_slice_iter(text.as_bytes())) {
        let wrong = match certificate {
            Ok(certificate) => roots.add(certificate).err().map(|error| error.to_string()),
            Err(error) => Some(error.to_string()),
        };
        problem = problem.or_else(|| Some((number, wrong?)));
    }
    if !roots.is_empty() {
        return Ok(roots);
    }
    Err(match problem {
        Some((number, wrong)) => unusable(
            format!(
                "found a certificate that cannot be read ({wrong}, number {number} in it), expected a {what}"
            ),
            "check that the file is whole, e.g. with `openssl x509 -noout -text -in FILE`",
        ),
        None => unusable(
            format!("found no PEM certificate in it, expected a {what}"),
            "write the authority's certificate as PEM, which begins with -----BEGIN CERTIFICATE-----; \
             `openssl x509 -inform der -outform pem` converts",
        ),
    })
}
