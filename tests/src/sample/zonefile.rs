// SPDX-License-Identifier: Apache-2.0
//! The sample's zones as master files (RFC 1035 section 5), for the real CoreDNS to serve.

use std::fmt::Write;

use anyhow::bail;
use hickory_proto::rr::{RData, Record};

use super::zones::Zones;

/// One master file for each zone: the zone's name with its final dot, and the file's text.
///
/// # Errors
/// When a record has a type that is not written here.
pub fn zone_files(zones: &Zones) -> anyhow::Result<Vec<(String, String)>> {
    let mut files = Vec::new();
    for zone in zones.iter() {
        let mut text = String::new();
        for record in zone.records() {
            text.push_str(&line(record)?);
        }
        files.push((zone.origin.to_ascii(), text));
    }
    Ok(files)
}

fn line(record: &Record) -> anyhow::Result<String> {
    let mut line = format!(
        "{} {} IN {} ",
        record.name.to_ascii(),
        record.ttl,
        record.record_type()
    );
    match &record.data {
        RData::A(a) => write!(line, "{}", a.0)?,
        RData::AAAA(aaaa) => write!(line, "{}", aaaa.0)?,
        RData::CNAME(target) => line.push_str(&target.0.to_ascii()),
        RData::PTR(target) => line.push_str(&target.0.to_ascii()),
        RData::MX(mx) => write!(line, "{} {}", mx.preference, mx.exchange.to_ascii())?,
        RData::SRV(srv) => write!(
            line,
            "{} {} {} {}",
            srv.priority,
            srv.weight,
            srv.port,
            srv.target.to_ascii()
        )?,
        RData::SOA(soa) => write!(
            line,
            "{} {} {} {} {} {} {}",
            soa.mname.to_ascii(),
            soa.rname.to_ascii(),
            soa.serial,
            soa.refresh,
            soa.retry,
            soa.expire,
            soa.minimum
        )?,
        RData::TXT(txt) => {
            for string in &txt.txt_data {
                line.push('"');
                for &byte in string {
                    match byte {
                        b'"' | b'\\' => write!(line, "\\{}", char::from(byte))?,
                        b' '..=b'~' => line.push(char::from(byte)),
                        _ => write!(line, "\\{byte:03}")?,
                    }
                }
                line.push_str("\" ");
            }
        }
        other => bail!("no master file text for {} records", other.record_type()),
    }
    line.push('\n');
    Ok(line)
}
