//! The tables, once for each dialect: the types of times, JSON and bytes differ.

macro_rules! tables {
    ($time:ident, $json:ident) => {
        diesel::table! {
            identity_providers (id) {
                id -> BigInt,
                provider_type -> Text,
                external_id -> Nullable<Text>,
                config -> $json,
                secret_names -> $json,
                secrets -> Nullable<Binary>,
                login -> Bool,
                multiple_accounts -> Bool,
                names_issuer -> Bool,
                date_added -> $time,
                version -> BigInt,
            }
        }

        diesel::table! {
            identities (id) {
                id -> BigInt,
                idp_id -> BigInt,
                idp_type -> Nullable<Text>,
                user_id -> Text,
                external_id -> Text,
                data -> $json,
                status -> Text,
                invalid_reason -> Nullable<Text>,
                invalid_at -> Nullable<$time>,
                scopes -> $json,
                date_verified -> $time,
                date_added -> $time,
                expires_at -> Nullable<$time>,
                version -> BigInt,
                credentials -> Nullable<Binary>,
                generation -> BigInt,
                attempt -> BigInt,
                lease_holder -> Nullable<Text>,
                lease_until -> Nullable<$time>,
                unanswered -> Integer,
                retry_at -> Nullable<$time>,
                failures -> Integer,
                failure_class -> Nullable<Text>,
                failure_detail -> Nullable<Text>,
                user_slot -> Text,
                planned_generation -> Nullable<BigInt>,
                refresh_at -> Nullable<$time>,
                refresh_claimed_until -> Nullable<$time>,
                refresh_expires_at -> Nullable<$time>,
                dies_at -> Nullable<$time>,
                refreshable -> Bool,
            }
        }

        diesel::table! {
            link_sessions (id) {
                id -> BigInt,
                purpose -> Text,
                user_id -> Nullable<Text>,
                provider_id -> Nullable<BigInt>,
                organization_id -> Nullable<Text>,
                return_url -> Text,
                scopes -> $json,
                login_hint -> Nullable<Text>,
                reattach -> Bool,
                auto_complete -> Bool,
                status -> Text,
                identity_id -> Nullable<BigInt>,
                error -> Nullable<Text>,
                created_by -> Text,
                created_for -> Nullable<Text>,
                created_because -> Nullable<Text>,
                created_at -> $time,
                expires_at -> $time,
                token_hash -> Binary,
                sent_to -> Nullable<BigInt>,
                browser_hash -> Nullable<Binary>,
                state_hash -> Nullable<Binary>,
                proof -> Nullable<Binary>,
                used -> Bool,
                code_hash -> Nullable<Binary>,
                pending -> Nullable<Binary>,
            }
        }

        diesel::table! {
            device_links (id) {
                id -> BigInt,
                user_id -> Text,
                provider_id -> BigInt,
                scopes -> $json,
                status -> Text,
                identity_id -> Nullable<BigInt>,
                error -> Nullable<Text>,
                created_by -> Text,
                created_for -> Nullable<Text>,
                created_because -> Nullable<Text>,
                created_at -> $time,
                expires_at -> $time,
                poll_seconds -> BigInt,
                next_poll_at -> $time,
                polls -> BigInt,
                device_code -> Nullable<Binary>,
                organization_id -> Nullable<Text>,
            }
        }

        diesel::table! {
            logout_tokens (provider_id, token_hash) {
                provider_id -> BigInt,
                token_hash -> Binary,
                forget_at -> $time,
            }
        }

        diesel::table! {
            provider_sessions (provider_id, session_hash, external_id) {
                provider_id -> BigInt,
                session_hash -> Binary,
                external_id -> Text,
                forget_at -> $time,
            }
        }

        diesel::table! {
            events (id) {
                id -> BigInt,
                at -> $time,
                kind -> Text,
                actor -> Text,
                acting_user -> Nullable<Text>,
                reason -> Nullable<Text>,
                identity_id -> Nullable<BigInt>,
                provider_id -> Nullable<BigInt>,
                user_id -> Nullable<Text>,
                organization_id -> Nullable<Text>,
                before -> Nullable<$json>,
                after -> Nullable<$json>,
                detail -> $json,
                seq -> Nullable<BigInt>,
            }
        }

        diesel::table! {
            webhook_endpoints (id) {
                id -> BigInt,
                url -> Text,
                kinds -> $json,
                enabled -> Bool,
                secrets -> Binary,
                generation -> BigInt,
                position -> BigInt,
                created_at -> $time,
            }
        }

        diesel::table! {
            webhook_deliveries (id) {
                id -> BigInt,
                endpoint_id -> BigInt,
                event_id -> BigInt,
                identity_id -> Nullable<BigInt>,
                kind -> Text,
                status -> Text,
                attempts -> Integer,
                next_attempt_at -> $time,
                claimed_until -> Nullable<$time>,
                last_status -> Nullable<Integer>,
                last_error -> Nullable<Text>,
                created_at -> $time,
                settled_at -> Nullable<$time>,
            }
        }

        diesel::table! {
            api_keys (id) {
                id -> BigInt,
                name -> Text,
                scopes -> $json,
                hash -> Binary,
                created_at -> $time,
                revoked_at -> Nullable<$time>,
                organizations -> Nullable<$json>,
                provider_types -> Nullable<$json>,
                providers -> Nullable<$json>,
                token_scopes -> Nullable<$json>,
                users -> Nullable<$json>,
            }
        }

        diesel::table! {
            auth_providers (id) {
                id -> BigInt,
                organization_id -> Text,
                provider_id -> BigInt,
                config -> $json,
                allow_unlinked -> Bool,
                scim_enabled -> Bool,
                default_role -> Nullable<Integer>,
                default_global_access -> Bool,
                sync_time -> Nullable<Integer>,
                last_sync -> Nullable<$time>,
                date_added -> $time,
                version -> BigInt,
            }
        }

        diesel::table! {
            auth_identities (id) {
                id -> BigInt,
                auth_provider_id -> BigInt,
                user_id -> Text,
                ident -> Text,
                data -> $json,
                last_verified -> $time,
                last_synced -> $time,
                date_added -> $time,
                version -> BigInt,
                credentials -> Nullable<Binary>,
                generation -> BigInt,
            }
        }

        diesel::table! {
            organization_identities (id) {
                id -> BigInt,
                organization_id -> Text,
                identity_id -> BigInt,
                date_added -> $time,
            }
        }

        diesel::table! {
            refresh_lanes (idp_id) {
                idp_id -> BigInt,
                next_free_at -> $time,
                paused_until -> Nullable<$time>,
            }
        }

        diesel::table! {
            revocations (id) {
                id -> BigInt,
                identity_id -> BigInt,
                auth_identity_id -> Nullable<BigInt>,
                provider_id -> BigInt,
                user_id -> Text,
                external_id -> Text,
                actor -> Text,
                acting_user -> Nullable<Text>,
                reason -> Nullable<Text>,
                status -> Text,
                attempts -> Integer,
                queued_at -> $time,
                due_at -> $time,
                last_error -> Nullable<Text>,
                sealed -> Nullable<Binary>,
                generation -> BigInt,
                device_link_id -> Nullable<BigInt>,
            }
        }

        diesel::table! {
            transfers (id) {
                id -> BigInt,
                from_user_id -> Text,
                to_user_id -> Text,
                items -> $json,
                actor -> Text,
                acting_user -> Nullable<Text>,
                reason -> Nullable<Text>,
                created_at -> $time,
                undone_at -> Nullable<$time>,
            }
        }

        diesel::table! {
            freezes (id) {
                id -> BigInt,
                api_key_id -> Nullable<BigInt>,
                provider_id -> Nullable<BigInt>,
                organization_id -> Nullable<Text>,
                actor -> Text,
                acting_user -> Nullable<Text>,
                reason -> Nullable<Text>,
                frozen_at -> $time,
            }
        }

        diesel::table! {
            ledger (id) {
                id -> BigInt,
                token_hash -> Binary,
                identity_id -> BigInt,
                provider_id -> BigInt,
                user_id -> Text,
                actor -> Text,
                acting_user -> Text,
                times -> BigInt,
                first_at -> $time,
                last_at -> $time,
                request_id -> Text,
            }
        }

        diesel::table! {
            ledger_salt (id) {
                id -> BigInt,
                sealed -> Binary,
                generation -> BigInt,
            }
        }

        diesel::joinable!(identities -> identity_providers (idp_id));
        diesel::allow_tables_to_appear_in_same_query!(identities, identity_providers);
        diesel::allow_tables_to_appear_in_same_query!(webhook_deliveries, webhook_endpoints);
        diesel::allow_tables_to_appear_in_same_query!(identities, organization_identities);
        diesel::allow_tables_to_appear_in_same_query!(auth_identities, auth_providers);
        diesel::allow_tables_to_appear_in_same_query!(identities, freezes);
        diesel::allow_tables_to_appear_in_same_query!(organization_identities, freezes);
    };
}
