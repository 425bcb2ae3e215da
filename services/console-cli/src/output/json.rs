//! Answers as JSON: the canonical JSON of protobuf (lowerCamelCase, RFC 3339 times, enum names,
//! 64-bit numbers as strings), with every field that has a default written out, and with one
//! difference: bytes are not base64 where people know a better form. A field `…_id` of 16 bytes
//! is a UUID, `sha256` and `…_hash` are hex.

use std::sync::LazyLock;

use prost_reflect::{
    DescriptorPool, DynamicMessage, FieldDescriptor, ReflectMessage, SerializeOptions,
    Value as Field,
};
use serde_json::Value;

use super::text;
use crate::failure::{Failure, Kind};

static POOL: LazyLock<Option<DescriptorPool>> =
    LazyLock::new(|| DescriptorPool::decode(muster_proto::DESCRIPTORS).ok());

/// A message of `proto/`, whose full name (`muster.site.v1.Site`) is `name`.
pub(crate) fn message(name: &str, message: &impl prost::Message) -> Result<Value, Failure> {
    let failed = |why: String| Failure::new(Kind::General, "OUTPUT", format!("{name}: {why}"));
    let descriptor = POOL
        .as_ref()
        .and_then(|pool| pool.get_message_by_name(name));
    let descriptor = descriptor.ok_or_else(|| failed("not in the descriptors".to_owned()))?;
    let dynamic = DynamicMessage::decode(descriptor, message.encode_to_vec().as_slice())
        .map_err(|error| failed(error.to_string()))?;
    let options = SerializeOptions::new().skip_default_fields(false);
    let mut value = dynamic
        .serialize_with_options(serde_json::value::Serializer, &options)
        .map_err(|error| failed(error.to_string()))?;
    befriend(&dynamic, &mut value);
    Ok(value)
}

/// Walks message and JSON side by side and rewrites the bytes.
fn befriend(message: &DynamicMessage, json: &mut Value) {
    let Some(object) = json.as_object_mut() else {
        return;
    };
    for (field, value) in message.fields() {
        if let Some(slot) = object.get_mut(field.json_name()) {
            rewrite(&field, value, slot);
        }
    }
}

/// Only bytes are rewritten, and what may hold them is searched; our messages have no maps.
fn rewrite(field: &FieldDescriptor, value: &Field, slot: &mut Value) {
    if let Field::Bytes(bytes) = value {
        if let Some(text) = friendly(field, bytes) {
            *slot = Value::String(text);
        }
    } else if let Field::Message(inner) = value {
        if !is_well_known(inner) {
            befriend(inner, slot);
        }
    } else if let Field::List(items) = value {
        for (item, slot) in items.iter().zip(slot.as_array_mut().into_iter().flatten()) {
            rewrite(field, item, slot);
        }
    }
}

fn friendly(field: &FieldDescriptor, bytes: &[u8]) -> Option<String> {
    let name = field.name();
    if name.ends_with("_id") || name.ends_with("_ids") {
        return Some(text::id(bytes));
    }
    (name == "sha256" || name.ends_with("_hash")).then(|| text::hex(bytes))
}

/// Their JSON is not an object of their fields.
fn is_well_known(message: &DynamicMessage) -> bool {
    message
        .descriptor()
        .full_name()
        .starts_with("google.protobuf.")
}

#[cfg(test)]
mod tests {
    use super::*;
    use muster_proto::{catalog, content, report};
    use serde_json::json;

    #[test]
    fn ids_are_uuids_hashes_are_hex_and_defaults_are_written_out() {
        let package = content::GetPackageResponse {
            package: Some(content::Package {
                package_id: vec![0x11; 16].into(),
                name: "june".to_owned(),
                created_at: Some(prost_types::Timestamp {
                    seconds: 1_000_000_000,
                    nanos: 0,
                }),
                total_bytes: 7,
                ..Default::default()
            }),
            files: vec![content::FileStatus {
                sha256: vec![0xab; 32].into(),
                state: content::FileState::Available.into(),
                ..Default::default()
            }],
        };
        let value = message("muster.content.v1.GetPackageResponse", &package).unwrap();
        assert_eq!(
            value["package"]["packageId"],
            "11111111-1111-1111-1111-111111111111"
        );
        assert_eq!(value["package"]["createdAt"], "2001-09-09T01:46:40Z");
        assert_eq!(value["package"]["totalBytes"], "7");
        assert_eq!(value["package"]["filesFailed"], 0);
        assert_eq!(value["files"][0]["sha256"], "ab".repeat(32));
        assert_eq!(value["files"][0]["state"], "FILE_STATE_AVAILABLE");
    }

    #[test]
    fn other_bytes_stay_canonical() {
        use muster_proto::state::QuarantinedMessage;
        let found = QuarantinedMessage {
            body: b"abc".to_vec().into(),
            ..Default::default()
        };
        let value = message("muster.state.v1.QuarantinedMessage", &found).unwrap();
        assert_eq!(value["body"], "YWJj");
    }

    #[test]
    fn what_is_not_set_is_left_out_and_not_null() {
        let value = message(
            "muster.report.v1.GetClientReportResponse",
            &report::GetClientReportResponse::default(),
        );
        assert_eq!(value.unwrap().get("lastScannedAt"), None);
    }

    #[test]
    fn an_unknown_message_is_an_error() {
        let failure = message("muster.no.Such", &catalog::Update::default()).unwrap_err();
        assert_eq!(json!(failure.reason), "OUTPUT");
    }
}
