// SPDX-License-Identifier: Apache-2.0
//! The schema of the values knows what the values and the agent know. The part for `config` is
//! written from the agent's table of keys: UPDATE_DOCS=1 cargo test -p nodens-tests --test chart schema

use std::collections::BTreeSet;
use std::fs;

use nodens::config::keys::{KEYS, Kind, SECTIONS};
use nodens_tests::{helm, yaml};
use serde_json::{Map, Value, json};

/// A value of the agent's configuration, as far as a schema can say what it is.
fn schema_of(kind: &Kind) -> Value {
    match kind {
        Kind::Version => json!({ "const": 1 }),
        Kind::Domain => json!({ "$ref": "#/definitions/domain" }),
        Kind::Addresses
        | Kind::Services
        | Kind::ServicesOrOff
        | Kind::AddressesOrAuto
        | Kind::Upstreams => {
            json!({ "type": ["array", "string"], "items": { "type": "string" } })
        }
        Kind::Count(limit) => {
            json!({ "type": "integer", "minimum": limit.min, "maximum": limit.max })
        }
        Kind::CountOrAuto(limit) => json!({
            "type": ["integer", "string"],
            "minimum": limit.min,
            "maximum": limit.max,
            "pattern": "^auto$",
        }),
        Kind::Size(_) => json!({ "$ref": "#/definitions/size" }),
        Kind::Time(_) | Kind::Seconds(_) => json!({ "$ref": "#/definitions/duration" }),
        Kind::Switch(_) => json!({ "type": "boolean" }),
        Kind::Word(words) => json!({ "enum": words }),
        Kind::Interface
        | Kind::Path
        | Kind::ResolvConf
        | Kind::ServerName
        | Kind::CaFile
        | Kind::Socket(_) => json!({ "type": "string", "minLength": 1 }),
        Kind::Zones => json!({ "type": "array", "items": { "$ref": "#/definitions/zone" } }),
    }
}

fn closed(properties: Map<String, Value>) -> Value {
    json!({ "type": "object", "additionalProperties": false, "properties": properties })
}

/// The definition of a zone, and that of the whole file.
fn of_the_agent() -> (Value, Value) {
    let (mut zone, mut file) = (Map::new(), Map::new());
    for (section, _) in SECTIONS {
        let mut keys = Map::new();
        for key in KEYS {
            let schema = schema_of(&key.kind);
            if let Some(name) = key.path.strip_prefix("zones[].") {
                zone.insert(name.to_owned(), schema);
            } else if key.path == section {
                file.insert(section.to_owned(), schema);
            } else if let Some(name) = key.path.strip_prefix(section)
                && let Some(name) = name.strip_prefix('.')
            {
                keys.insert(name.to_owned(), schema);
            }
        }
        if !keys.is_empty() {
            file.insert(section.to_owned(), closed(keys));
        }
    }
    let mut zone = closed(zone);
    zone["required"] = json!(["name"]);
    (zone, closed(file))
}

#[test]
fn the_schema_of_the_free_form_is_the_agents_table_of_keys() {
    let path = helm::chart().join("values.schema.json");
    let text = fs::read_to_string(&path).unwrap();
    let mut schema: Value = serde_json::from_str(&text).unwrap();
    let (zone, file) = of_the_agent();
    schema["definitions"]["zone"] = zone;
    schema["properties"]["config"] = file;
    let expected = format!("{}\n", serde_json::to_string_pretty(&schema).unwrap());
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(&path, &expected).unwrap();
    } else {
        assert!(text == expected, "{} is old: make docs", path.display());
    }
}

/// Every place where the schema has properties: it takes no others.
fn open_objects(schema: &Value, path: &str, open: &mut Vec<String>) {
    if let Some(properties) = schema.get("properties").and_then(Value::as_object) {
        if schema["additionalProperties"] != false {
            open.push(path.to_owned());
        }
        for (name, inner) in properties {
            open_objects(inner, &format!("{path}/{name}"), open);
        }
    }
    if let Some(items) = schema.get("items") {
        open_objects(items, &format!("{path}/0"), open);
    }
}

#[test]
fn the_schema_is_closed_everywhere() {
    let text = fs::read_to_string(helm::chart().join("values.schema.json")).unwrap();
    let schema: Value = serde_json::from_str(&text).unwrap();
    let mut open = Vec::new();
    open_objects(&schema, "", &mut open);
    open_objects(&schema["definitions"]["zone"], "zone", &mut open);
    assert!(open.is_empty(), "{open:?}");
}

#[test]
fn the_schema_knows_the_values_and_no_others() {
    let chart = helm::chart();
    let schema: Value =
        serde_json::from_str(&fs::read_to_string(chart.join("values.schema.json")).unwrap())
            .unwrap();
    let values = fs::read_to_string(chart.join("values.yaml")).unwrap();
    let values = yaml::documents(&values).unwrap().remove(0);
    let mut known = BTreeSet::new();
    let mut given = BTreeSet::new();
    for (name, inner) in schema["properties"].as_object().unwrap() {
        // Helm's own; what is free; what Kubernetes defines.
        if ["global", "config", "affinity", "seLinuxOptions"].contains(&name.as_str()) {
            continue;
        }
        match inner.get("properties").and_then(Value::as_object) {
            Some(keys) => known.extend(keys.keys().map(|key| format!("{name}.{key}"))),
            None => {
                known.insert(name.clone());
            }
        }
    }
    for (name, inner) in values.as_object().unwrap() {
        if ["config", "affinity", "seLinuxOptions"].contains(&name.as_str()) {
            continue;
        }
        match inner.as_object() {
            Some(keys) if schema["properties"][name].get("properties").is_some() => {
                given.extend(keys.keys().map(|key| format!("{name}.{key}")));
            }
            _ => {
                given.insert(name.clone());
            }
        }
    }
    assert_eq!(given, known);
}

#[test]
fn every_value_says_what_it_is_for() {
    let values = fs::read_to_string(helm::chart().join("values.yaml")).unwrap();
    let mut above = "";
    let mut silent = Vec::new();
    for line in values.lines() {
        let is_key = !line.trim_start().starts_with(['#', '-']) && line.contains(": ");
        // Sections and what explains itself stand without a comment.
        let explains_itself = [
            "pullPolicy",
            "labels",
            "interval",
            "requests",
            "limits",
            "podAnno",
        ];
        let is_plain = explains_itself.iter().any(|word| line.contains(word));
        if is_key && !is_plain && !above.trim_start().starts_with('#') {
            silent.push(line.to_owned());
        }
        above = line;
    }
    silent.retain(|line| !line.contains("podLabels") && !line.contains("k8s-app"));
    assert!(silent.is_empty(), "{silent:?}");
}
