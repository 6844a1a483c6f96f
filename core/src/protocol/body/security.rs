//! Users and access rules (`UserInfo.java`, `AclInfo.java`).

use super::bodies;

bodies! {
    /// Codes 3001 and 3002, reply to 3004.
    #[derive(Eq, Default)]
    UserInfo {
        #[serde(skip_serializing_if = "Option::is_none")]
        password: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        user_status: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        user_type: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        username: Option<String>,
    }

    /// Codes 3006 and 3007, reply to 3009.
    #[derive(Eq, Default)]
    AclInfo {
        policies: Vec<AclPolicy>,
        #[serde(skip_serializing_if = "Option::is_none")]
        subject: Option<String>,
    }

    /// Rules of one type.
    #[derive(Eq, Default)]
    AclPolicy {
        entries: Vec<AclEntry>,
        #[serde(skip_serializing_if = "Option::is_none")]
        policy_type: Option<String>,
    }

    /// A rule.
    #[derive(Eq, Default)]
    AclEntry {
        actions: Vec<String>,
        decision: String,
        resource: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        source_ips: Option<Vec<String>>,
    }
}
