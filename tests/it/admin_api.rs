//! The admin API as a caller sees it: keys, tenancy, and what each resource takes and refuses.

use axum::{
    body::Body,
    http::{Method, Request, StatusCode, header},
};
use remit::{
    app::endpoints::{self, CACHE_S, EndpointCache},
    domain::ids::{EndpointId, ProjectId},
};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Value, json};
use tower::ServiceExt as _;

use crate::support::{
    TestDb,
    api::{Api, NOW, OTHER_MASTER_KEY, PROGRAMS, id_of, rows},
    on_each_engine,
};

on_each_engine! {
    async fn a_request_without_a_working_key_is_401_and_names_the_scheme(db: TestDb) {
        let api = Api::new(&db.db).await;
        // The last character is random, and may be any.
        let (start, last) = api.operator.split_at(api.operator.len() - 1);
        let mistyped = format!("{start}{}", if last == "x" { "y" } else { "x" });
        for authorization in [None, Some("Bearer"), Some("Basic abc"), Some("Bearer sk_live_1"), Some(mistyped.as_str())] {
            let mut request = Request::get(PROGRAMS);
            if let Some(value) = authorization {
                request = request.header(header::AUTHORIZATION, value);
            }
            let response = api.router.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
            assert_eq!(response.status(), StatusCode::UNAUTHORIZED, "{authorization:?}");
            assert_eq!(response.headers()[header::WWW_AUTHENTICATE], "Bearer realm=\"remit\"");
        }
        let (status, answer) = api.call(&mistyped, Method::GET, PROGRAMS, &Value::Null).await;
        assert_eq!((status.as_u16(), &answer["error"]["code"]), (401, &json!("UNAUTHENTICATED")));
        assert!(!answer.to_string().contains(&mistyped[10..40]), "{answer}");
    }

    async fn a_key_lives_from_its_making_to_its_revoking_or_expiry(db: TestDb) {
        let api = Api::new(&db.db).await;
        let made = api
            .create(&api.operator, "/v1/admin/keys", json!({
                "kind": "operator", "scopes": ["read"], "expires_at": "2025-06-15T15:07:40Z",
            }))
            .await;
        let (text, path) = (made["key"].as_str().unwrap(), format!("/v1/admin/keys/{}", id_of(&made)));
        assert!(text.starts_with("rk_op_"), "{text}");
        assert_eq!(made["scopes"], json!(["read"]));

        assert_eq!(api.call(text, Method::GET, PROGRAMS, &Value::Null).await.0, StatusCode::OK);
        // 1 750 000 060 s is 2025-06-15T15:07:40Z.
        api.clock.advance_secs(59);
        assert_eq!(api.call(text, Method::GET, PROGRAMS, &Value::Null).await.0, StatusCode::OK);
        api.clock.advance_secs(1);
        assert_eq!(api.refusal(text, Method::GET, PROGRAMS, &Value::Null).await, (401, "UNAUTHENTICATED".to_owned()));

        api.clock.set(NOW);
        let (status, first) = api.call(&api.operator, Method::DELETE, &path, &Value::Null).await;
        assert_eq!(status, StatusCode::OK);
        assert_eq!(api.refusal(text, Method::GET, PROGRAMS, &Value::Null).await, (401, "UNAUTHENTICATED".to_owned()));
        api.clock.advance_secs(10);
        let (status, again) = api.call(&api.operator, Method::DELETE, &path, &Value::Null).await;
        assert_eq!((status, again), (StatusCode::OK, first), "revoking again changes nothing");
    }

    async fn the_text_of_a_key_is_shown_once_and_stored_nowhere(db: TestDb) {
        let api = Api::new(&db.db).await;
        let made = api.create(&api.operator, "/v1/admin/keys", json!({"kind": "operator"})).await;
        let secret = made["key"].as_str().unwrap().split('_').nth(3).unwrap().to_owned();
        let (_, listed) = api.call(&api.operator, Method::GET, "/v1/admin/keys", &Value::Null).await;
        assert_eq!(listed["data"].as_array().unwrap().len(), 2, "{listed}");
        assert_eq!(listed["data"][0]["scopes"], json!(["*"]));
        assert!(!listed.to_string().contains(&secret), "{listed}");
        let hashes: Vec<Vec<u8>> =
            db.db.read().await.unwrap().q("SELECT secret_hash FROM api_key").scalars().await.unwrap();
        assert!(hashes.iter().all(|hash| hash.len() == 32 && hash != secret.as_bytes()));
    }

    async fn a_right_key_with_another_secret_opens_nothing(db: TestDb) {
        let api = Api::new(&db.db).await;
        // Both are well-formed keys; the second belongs to a database that does not know the first.
        let other = TestDb::sqlite().await;
        let stranger = Api::new(&other.db).await;
        assert_eq!(api.refusal(&stranger.operator, Method::GET, PROGRAMS, &Value::Null).await.0, 401);
        // The row of the stranger's key, with the hash of another secret.
        let id = stranger.operator.split('_').nth(2).unwrap();
        let mut tx = db.db.begin().await.unwrap();
        let copied = tx
            .q("UPDATE api_key SET id = $1")
            .bind(format!("key_{id}"))
            .exec()
            .await
            .unwrap();
        assert_eq!(copied, 1);
        tx.commit().await.unwrap();
        assert_eq!(api.refusal(&stranger.operator, Method::GET, PROGRAMS, &Value::Null).await.0, 401);
    }

    async fn a_key_hands_on_no_more_than_it_holds(db: TestDb) {
        let api = Api::new(&db.db).await;
        let (own, tenant) = api.tenant("Own").await;
        let (other, _) = api.tenant("Other").await;
        let project = api
            .create(&tenant, "/v1/admin/projects", json!({"organization_id": own, "name": "Site"}))
            .await;
        let limited = api
            .create(&tenant, "/v1/admin/keys", json!({"kind": "organization", "scopes": ["read", "keys"]}))
            .await;
        assert_eq!(limited["organization_id"], json!(own));
        let limited = limited["key"].as_str().unwrap();
        let client = api
            .create(&tenant, "/v1/admin/keys", json!({"kind": "client", "project_id": project["id"]}))
            .await;
        assert_eq!((&client["organization_id"], &client["scopes"]), (&json!(own), &json!(["touchpoint"])));

        for (key, body, status, code) in [
            (&*tenant, json!({"kind": "operator"}), 403, "FORBIDDEN"),
            (&tenant, json!({"kind": "organization", "organization_id": other}), 404, "NOT_FOUND"),
            (&tenant, json!({"kind": "organization", "organization_id": "org_nobody"}), 404, "NOT_FOUND"),
            (&tenant, json!({"kind": "organization", "scopes": ["settle"]}), 403, "FORBIDDEN"),
            (&tenant, json!({"kind": "organization", "scopes": ["*"]}), 400, "INVALID_SCOPES"),
            (&tenant, json!({"kind": "organization", "scopes": []}), 400, "INVALID_SCOPES"),
            (&tenant, json!({"kind": "client"}), 400, "INVALID_PROJECT"),
            (&tenant, json!({"kind": "client", "project_id": "proj_default"}), 404, "NOT_FOUND"),
            (limited, json!({"kind": "organization", "scopes": ["write"]}), 403, "FORBIDDEN"),
            (limited, json!({"kind": "client", "project_id": project["id"]}), 400, "INVALID_SCOPES"),
            (&api.operator, json!({"kind": "organization"}), 400, "INVALID_ORGANIZATION"),
            (&api.operator, json!({"kind": "operator", "organization_id": own}), 400, "INVALID_ORGANIZATION"),
            (&api.operator, json!({"kind": "operator", "project_id": project["id"]}), 400, "INVALID_PROJECT"),
            (&api.operator, json!({"kind": "root"}), 400, "INVALID_KIND"),
            (&api.operator, json!({"kind": "operator", "expires_at": "soon"}), 400, "INVALID_EXPIRY"),
            (&api.operator, json!({"kind": "operator", "expires_at": "2020-01-01T00:00:00Z"}), 400, "INVALID_EXPIRY"),
            (&api.operator, json!({"kind": "operator", "note": "x"}), 400, "INVALID_BODY"),
            (client["key"].as_str().unwrap(), json!({"kind": "client"}), 403, "FORBIDDEN"),
        ] {
            let refusal = api.refusal(key, Method::POST, "/v1/admin/keys", &body).await;
            assert_eq!(refusal, (status, code.to_owned()), "{body}");
        }
    }

    async fn what_belongs_to_another_organization_looks_like_what_is_not_there(db: TestDb) {
        let api = Api::new(&db.db).await;
        let (own, tenant) = api.tenant("Own").await;
        let (other, stranger) = api.tenant("Other").await;
        let program = api.program(&tenant).await;
        let project = id_of(
            &api.create(&tenant, "/v1/admin/projects", json!({"organization_id": own, "name": "Site"})).await,
        );
        let endpoint = id_of(
            &api.create(&tenant, &format!("/v1/admin/projects/{project}/endpoints"), json!({
                "provider": "stripe", "secrets": ["whsec_12345678"], "livemode": false,
            }))
            .await,
        );
        let affiliate = json!({"affiliate_org_id": other});
        let enrollments = format!("{PROGRAMS}/{program}/enrollments");
        let enrollment = id_of(&api.create(&tenant, &enrollments, affiliate.clone()).await);
        let made = api.create(&tenant, "/v1/admin/keys", json!({"kind": "organization"})).await;

        let account = json!({"provider": "stripe", "account_id": "acct_1"});
        let (nothing, nobody) = (Value::Null, json!({"organization_id": own, "name": "Site"}));
        let requests = [
            (Method::GET, format!("{PROGRAMS}/{program}"), nothing.clone()),
            (Method::PATCH, format!("{PROGRAMS}/{program}"), json!({"name": "Mine now"})),
            (Method::GET, enrollments.clone(), nothing.clone()),
            (Method::POST, enrollments.clone(), affiliate),
            (Method::POST, format!("{enrollments}/{enrollment}/suspend"), nothing.clone()),
            (Method::GET, format!("/v1/admin/organizations/{own}"), nothing.clone()),
            (Method::PUT, format!("/v1/admin/organizations/{own}/payout-account"), account),
            (Method::GET, format!("/v1/admin/organizations/{own}/payout-account"), nothing.clone()),
            (Method::POST, "/v1/admin/projects".to_owned(), nobody),
            (Method::GET, format!("/v1/admin/projects/{project}/endpoints"), nothing.clone()),
            (Method::DELETE, format!("/v1/admin/projects/{project}/endpoints/{endpoint}"), nothing.clone()),
            (Method::DELETE, format!("/v1/admin/keys/{}", id_of(&made)), nothing.clone()),
        ];
        for (method, path, body) in requests {
            let (status, mut theirs) = api.call(&stranger, method.clone(), &path, &body).await;
            assert_eq!(status, StatusCode::NOT_FOUND, "{method} {path}");
            // The same request about an object that never was.
            let missing = path.replace(&program, "prog_none").replace(&project, "proj_none")
                .replace(&own, "org_none").replace(&id_of(&made), "key_none");
            let body = serde_json::from_str(&body.to_string().replace(&own, "org_none")).unwrap();
            let (status, mut absent) = api.call(&stranger, method.clone(), &missing, &body).await;
            assert_eq!(status, StatusCode::NOT_FOUND, "{method} {missing}");
            theirs["error"]["request_id"] = Value::Null;
            absent["error"]["request_id"] = Value::Null;
            assert_eq!(theirs, absent, "{method} {path}");
        }
        for list in [PROGRAMS, "/v1/admin/projects"] {
            let (_, seen) = api.call(&stranger, Method::GET, list, &nothing).await;
            assert_eq!(seen["data"], json!([]), "{list}");
        }
        let (_, seen) = api.call(&stranger, Method::GET, "/v1/admin/organizations", &nothing).await;
        assert_eq!(seen["data"].as_array().unwrap().len(), 1);
        assert_eq!(seen["data"][0]["id"], json!(other));
        let (_, seen) = api.call(&stranger, Method::GET, "/v1/admin/keys", &nothing).await;
        assert!(seen["data"].as_array().unwrap().iter().all(|key| key["organization_id"] == json!(other)));
        let (_, seen) = api.call(&api.operator, Method::GET, &format!("{PROGRAMS}/{program}"), &nothing).await;
        assert_eq!(seen["data"]["name"], json!("Launch Partners"), "nothing was changed by the stranger");
    }

    async fn every_route_asks_for_its_scope(db: TestDb) {
        let api = Api::new(&db.db).await;
        let only = async |scopes: &[&str]| {
            let body = json!({"kind": "operator", "scopes": scopes});
            api.create(&api.operator, "/v1/admin/keys", body).await["key"].as_str().unwrap().to_owned()
        };
        let (reader, writer, keeper) =
            (only(&["read"]).await, only(&["write"]).await, only(&["keys"]).await);
        let endpoints = "/v1/admin/projects/proj_default/endpoints";
        let account = "/v1/admin/organizations/org_default/payout-account";
        for (method, path, needed) in [
            (Method::GET, PROGRAMS, &reader),
            (Method::POST, PROGRAMS, &writer),
            (Method::GET, "/v1/admin/affiliate/programs/prog_1", &reader),
            (Method::PATCH, "/v1/admin/affiliate/programs/prog_1", &writer),
            (Method::GET, "/v1/admin/affiliate/programs/prog_1/enrollments", &reader),
            (Method::POST, "/v1/admin/affiliate/programs/prog_1/enrollments", &writer),
            (Method::POST, "/v1/admin/affiliate/programs/prog_1/enrollments/par_1/approve", &writer),
            (Method::GET, "/v1/admin/organizations", &reader),
            (Method::POST, "/v1/admin/organizations", &writer),
            (Method::GET, "/v1/admin/organizations/org_default", &reader),
            (Method::GET, account, &reader),
            (Method::PUT, account, &writer),
            (Method::GET, "/v1/admin/projects", &reader),
            (Method::POST, "/v1/admin/projects", &writer),
            (Method::GET, endpoints, &reader),
            (Method::POST, endpoints, &writer),
            (Method::DELETE, "/v1/admin/projects/proj_default/endpoints/ep_1", &writer),
            (Method::GET, "/v1/admin/keys", &keeper),
            (Method::POST, "/v1/admin/keys", &keeper),
            (Method::DELETE, "/v1/admin/keys/key_1", &keeper),
        ] {
            // A body that every route of that form accepts, so that only the scope can refuse it.
            let body = match (&method, path) {
                (&Method::POST, "/v1/admin/organizations") => json!({"name": "x"}),
                (&Method::POST, "/v1/admin/projects") => json!({"organization_id": "org_default", "name": "x"}),
                (&Method::POST, "/v1/admin/keys") => json!({"kind": "operator", "scopes": ["keys"]}),
                (&Method::PUT, _) => json!({"provider": "stripe", "account_id": "acct_1"}),
                (&Method::POST, path) if path.ends_with("/endpoints") => {
                    json!({"provider": "stripe", "secrets": ["whsec_12345678"], "livemode": false})
                }
                (&Method::POST, path) if path.ends_with("/enrollments") => json!({"email": "a@x.org"}),
                (&Method::POST | &Method::PATCH, _) => json!({}),
                _ => Value::Null,
            };
            for key in [&reader, &writer, &keeper] {
                let (status, answer) = api.call(key, method.clone(), path, &body).await;
                let is_forbidden = status == StatusCode::FORBIDDEN;
                assert_eq!(is_forbidden, key != needed, "{method} {path} gave {status} {answer}");
            }
        }
    }

    async fn organizations_keep_their_address_and_how_it_compares(db: TestDb) {
        let api = Api::new(&db.db).await;
        let made = api
            .create(&api.operator, "/v1/admin/organizations", json!({
                "name": " Acme ", "email": " Ann.Lee+shop@GoogleMail.com ",
            }))
            .await;
        assert_eq!((&made["name"], &made["email"]), (&json!("Acme"), &json!("Ann.Lee+shop@GoogleMail.com")));
        let normalised: Vec<String> =
            db.db.read().await.unwrap().q("SELECT email FROM organization_email").scalars().await.unwrap();
        assert_eq!(normalised, ["annlee@gmail.com"]);
        for (body, code) in [
            (json!({"name": ""}), "INVALID_NAME"),
            (json!({"name": "x", "email": "nobody"}), "INVALID_EMAIL"),
            (json!({"name": "x", "email": "a b@x.org"}), "INVALID_EMAIL"),
            (json!({"name": "x", "email": format!("{}@x.org", "a".repeat(250))}), "INVALID_EMAIL"),
            (json!({"name": 5}), "INVALID_BODY"),
            (json!({"email": "a@x.org"}), "INVALID_BODY"),
        ] {
            let refusal = api.refusal(&api.operator, Method::POST, "/v1/admin/organizations", &body).await;
            assert_eq!(refusal, (400, code.to_owned()), "{body}");
        }
        let (_, tenant) = api.tenant("Own").await;
        let refusal = api.refusal(&tenant, Method::POST, "/v1/admin/organizations", &json!({"name": "x"})).await;
        assert_eq!(refusal, (403, "FORBIDDEN".to_owned()));
    }

    async fn a_payout_account_is_set_replaced_and_shown(db: TestDb) {
        let api = Api::new(&db.db).await;
        let (own, tenant) = api.tenant("Own").await;
        let path = format!("/v1/admin/organizations/{own}/payout-account");
        assert_eq!(api.refusal(&tenant, Method::GET, &path, &Value::Null).await, (404, "NOT_FOUND".to_owned()));
        for account in ["acct_1", "acct_2", "acct_2"] {
            let body = json!({"provider": "stripe", "account_id": account});
            let (status, answer) = api.call(&tenant, Method::PUT, &path, &body).await;
            assert_eq!((status, &answer["data"]["account_id"]), (StatusCode::OK, &json!(account)));
        }
        let (_, shown) = api.call(&tenant, Method::GET, &path, &Value::Null).await;
        assert_eq!(shown["data"]["account_id"], json!("acct_2"));
        for (body, code) in [
            (json!({"provider": "paypal", "account_id": "acct_1"}), "INVALID_PROVIDER"),
            (json!({"provider": "stripe", "account_id": "acct_"}), "INVALID_ACCOUNT"),
            (json!({"provider": "stripe", "account_id": "cus_1"}), "INVALID_ACCOUNT"),
            (json!({"provider": "stripe", "account_id": "acct_1/../2"}), "INVALID_ACCOUNT"),
        ] {
            assert_eq!(api.refusal(&tenant, Method::PUT, &path, &body).await, (400, code.to_owned()), "{body}");
        }
    }

    async fn endpoint_secrets_go_in_sealed_and_come_out_only_for_the_receiver(db: TestDb) {
        let api = Api::new(&db.db).await;
        let path = "/v1/admin/projects/proj_default/endpoints";
        let secrets = ["whsec_old_12345678", "whsec_new_12345678"];
        let body = json!({"provider": "stripe", "secrets": secrets, "livemode": true, "connect": true});
        let made = api.create(&api.operator, path, body).await;
        let id = EndpointId::parse(made["id"].as_str().unwrap()).unwrap();
        assert_eq!(made["url_path"], json!(format!("/webhooks/stripe/{id}")));
        assert_eq!((&made["livemode"], &made["connect"]), (&json!(true), &json!(true)));
        let (_, listed) = api.call(&api.operator, Method::GET, path, &Value::Null).await;
        assert_eq!(listed["data"].as_array().unwrap().len(), 1);
        assert!(!format!("{made}{listed}").contains("whsec"), "{made} {listed}");
        let sealed: Vec<Vec<u8>> =
            db.db.read().await.unwrap().q("SELECT secrets_sealed FROM endpoint").scalars().await.unwrap();
        assert!(!sealed[0].windows(5).any(|window| window == b"whsec"));

        let found = endpoints::find(&api.app, "stripe", &id).await.unwrap().unwrap();
        let opened: Vec<&str> = found.secrets.iter().map(SecretString::expose_secret).collect();
        assert_eq!(opened, secrets);
        assert_eq!((found.provider, found.livemode), ("stripe", true));
        assert_eq!(found.project_id, ProjectId::parse("proj_default").unwrap());
        assert!(endpoints::find(&api.app, "paddle", &id).await.unwrap().is_none());

        let restarted = Api::with(&db.db, &[("REMIT_SECRETS__MASTER_KEY", OTHER_MASTER_KEY)]).await;
        let error = endpoints::find(&restarted.app, "stripe", &id).await.unwrap_err();
        assert!(error.to_string().contains("REMIT_SECRETS__MASTER_KEY is not the key"), "{error}");
        let without_key = Api::with(&db.db, &[]).await;
        assert!(endpoints::find(&without_key.app, "stripe", &id).await.is_err());
    }

    async fn a_sealed_value_that_was_moved_to_another_endpoint_does_not_open(db: TestDb) {
        let api = Api::new(&db.db).await;
        let path = "/v1/admin/projects/proj_default/endpoints";
        let endpoint = |secret: &str| json!({"provider": "stripe", "secrets": [secret], "livemode": false});
        let first = api.create(&api.operator, path, endpoint("whsec_first_1234")).await;
        let second = api.create(&api.operator, path, endpoint("whsec_second_1234")).await;
        let mut tx = db.db.begin().await.unwrap();
        tx.q("UPDATE endpoint SET secrets_sealed = (SELECT secrets_sealed FROM endpoint WHERE id = $1)
              WHERE id = $2")
            .bind(id_of(&first))
            .bind(id_of(&second))
            .exec()
            .await
            .unwrap();
        tx.commit().await.unwrap();
        let find = async |id: &Value| {
            endpoints::find(&api.app, "stripe", &EndpointId::parse(&id_of(id)).unwrap()).await
        };
        assert!(find(&first).await.unwrap().is_some());
        assert!(find(&second).await.is_err());
    }

    async fn bad_endpoints_are_refused_without_showing_a_secret(db: TestDb) {
        let api = Api::new(&db.db).await;
        let path = "/v1/admin/projects/proj_default/endpoints";
        let with = |provider: &str, secrets: Value| json!({"provider": provider, "secrets": secrets, "livemode": false});
        for (body, status, code) in [
            (with("paypal", json!(["whsec_12345678"])), 400, "INVALID_PROVIDER"),
            (with("stripe", json!([])), 400, "INVALID_SECRETS"),
            (with("stripe", json!(["pdl_ntfset_hunter2"])), 400, "INVALID_SECRETS"),
            (with("stripe", json!(["whsec_hunter2 "])), 400, "INVALID_SECRETS"),
            (with("paddle", json!(["hunter2\nhunter2"])), 400, "INVALID_SECRETS"),
            (with("paddle", json!(["hunter2"])), 400, "INVALID_SECRETS"),
            (with("paddle", json!([{"hunter2": 1}])), 400, "INVALID_BODY"),
            (json!({"provider": "stripe", "secrets": ["whsec_hunter2"]}), 400, "INVALID_BODY"),
        ] {
            let (got, answer) = api.call(&api.operator, Method::POST, path, &body).await;
            assert_eq!((got.as_u16(), &answer["error"]["code"]), (status, &json!(code)), "{body}");
            assert!(!answer.to_string().contains("hunter2"), "{answer}");
        }
        let without_key = Api::with(&db.db, &[]).await;
        let good = with("stripe", json!(["whsec_12345678"]));
        let (status, answer) = without_key.call(&without_key.operator, Method::POST, path, &good).await;
        assert_eq!((status.as_u16(), &answer["error"]["code"]), (409, &json!("MASTER_KEY_MISSING")));
        assert!(answer.to_string().contains("REMIT_SECRETS__MASTER_KEY"), "{answer}");
        let stored: Vec<String> =
            db.db.read().await.unwrap().q("SELECT id FROM endpoint").scalars().await.unwrap();
        assert_eq!(stored, [""; 0]);
    }

    async fn a_deleted_endpoint_is_forgotten_and_its_row_stays(db: TestDb) {
        let api = Api::new(&db.db).await;
        let path = "/v1/admin/projects/proj_default/endpoints";
        let body = json!({"provider": "paddle", "secrets": ["pdl_ntfset_1"], "livemode": false});
        let made = api.create(&api.operator, path, body).await;
        let id = EndpointId::parse(&id_of(&made)).unwrap();
        let cache = EndpointCache::default();
        assert!(cache.find(&api.app, "paddle", &id).await.unwrap().is_some());
        assert!(cache.find(&api.app, "stripe", &id).await.unwrap().is_none());

        let one = format!("{path}/{id}");
        assert_eq!(api.call(&api.operator, Method::DELETE, &one, &Value::Null).await.0, StatusCode::OK);
        assert_eq!(api.refusal(&api.operator, Method::DELETE, &one, &Value::Null).await.0, 404);
        assert!(endpoints::find(&api.app, "paddle", &id).await.unwrap().is_none());
        api.clock.advance_secs(CACHE_S - 1);
        assert!(cache.find(&api.app, "paddle", &id).await.unwrap().is_some(), "remembered for a few seconds");
        api.clock.advance_secs(1);
        assert!(cache.find(&api.app, "paddle", &id).await.unwrap().is_none());
        let stored: Vec<String> =
            db.db.read().await.unwrap().q("SELECT id FROM endpoint").scalars().await.unwrap();
        assert_eq!(stored, [id.to_string()]);
    }

    async fn default_endpoints_exist_while_their_secrets_are_configured(db: TestDb) {
        let env = [("REMIT_STRIPE__WEBHOOK_SECRETS", "whsec_a1234567,whsec_b1234567")];
        let api = Api::with(&db.db, &env).await;
        let stripe = EndpointId::parse("ep_default_stripe").unwrap();
        let found = endpoints::find(&api.app, "stripe", &stripe).await.unwrap().unwrap();
        assert_eq!((found.secrets.len(), found.livemode), (2, false));
        assert_eq!(found.project_id, ProjectId::parse("proj_default").unwrap());
        assert!(endpoints::find(&api.app, "paddle", &stripe).await.unwrap().is_none());
        let paddle = EndpointId::parse("ep_default_paddle").unwrap();
        assert!(endpoints::find(&api.app, "paddle", &paddle).await.unwrap().is_none());
    }

    async fn a_program_has_the_defaults_of_the_guide(db: TestDb) {
        let api = Api::new(&db.db).await;
        let body = json!({"name": "Launch Partners", "commission": {"type": "percentage", "bps": 2000}});
        let mut program = api.create(&api.operator, PROGRAMS, body).await;
        let id = program["id"].take();
        assert_eq!(program, json!({
            "id": null, "owner_organization_id": "org_default", "name": "Launch Partners", "status": "draft",
            "commission": {"type": "percentage", "bps": 2000}, "commission_base": "gross",
            "flat_on_partial": "keep", "approval_mode": "auto", "hold_period_days": 30, "terms_version": 1,
            "conversion_kind": "payment", "attribution_model": "last_touch", "attribution_window_days": 30,
            "platform_fee_bps": 0, "min_payout": {}, "payout_schedule": null,
            "on_transfer_reversed": "clawback", "landing_url": null, "applications": "closed",
            "product_rates": [], "upline_bps": [],
            "created_at": "2025-06-15T15:06:40Z",
        }));
        let (_, mut shown) =
            api.call(&api.operator, Method::GET, &format!("{PROGRAMS}/{}", id.as_str().unwrap()), &Value::Null).await;
        shown["data"]["id"] = Value::Null;
        assert_eq!(shown["data"], program);
    }

    async fn a_program_that_is_not_valid_is_not_made(db: TestDb) {
        let api = Api::new(&db.db).await;
        let good = json!({"name": "x", "commission": {"type": "percentage", "bps": 1}});
        let with = |field: &str, value: Value| {
            let mut body = good.clone();
            body[field] = value;
            body
        };
        for (body, status, code) in [
            (json!({"commission": {"type": "percentage", "bps": 1}}), 400, "INVALID_NAME"),
            (json!({"name": "x"}), 400, "INVALID_COMMISSION"),
            (with("commission", json!({"type": "recurring", "bps": 1, "max_payments": 0})), 400, "INVALID_COMMISSION"),
            (with("status", json!("paused")), 400, "INVALID_STATUS"),
            (with("status", json!("archived")), 400, "INVALID_STATUS"),
            (with("hold_period_days", json!(4000)), 400, "INVALID_HOLD_PERIOD"),
            (with("owner_organization_id", json!("org_nobody")), 404, "NOT_FOUND"),
            (with("owner_organization_id", json!(7)), 400, "INVALID_ORGANIZATION"),
            (with("comission", json!({})), 400, "INVALID_BODY"),
        ] {
            let (got, answer) = api.call(&api.operator, Method::POST, PROGRAMS, &body).await;
            assert_eq!((got.as_u16(), &answer["error"]["code"]), (status, &json!(code)), "{body}");
            if code == "INVALID_BODY" {
                assert_eq!(answer["error"]["param"], json!("comission"));
            }
        }
        assert_eq!(rows(&db.db, "SELECT created_at_us, name FROM program").await, []);
    }

    async fn terms_and_statuses_are_kept_with_their_beginnings(db: TestDb) {
        let api = Api::new(&db.db).await;
        let body = json!({"name": "x", "commission": {"type": "percentage", "bps": 1000}});
        let path = format!("{PROGRAMS}/{}", id_of(&api.create(&api.operator, PROGRAMS, body).await));
        let change = async |body: Value| {
            let (status, answer) = api.call(&api.operator, Method::PATCH, &path, &body).await;
            assert_eq!(status, StatusCode::OK, "{answer}");
            answer
        };
        change(json!({"status": "active"})).await;
        change(json!({"name": "y", "platform_fee_bps": 250})).await;
        let changed = change(json!({"commission": {"type": "percentage", "bps": 2000}, "hold_period_days": 7})).await;
        assert_eq!(changed["data"]["terms_version"], json!(2));
        let again = change(json!({"hold_period_days": 7, "status": "active"})).await;
        assert_eq!(again["data"]["terms_version"], json!(2), "what is the same is no new version");
        change(json!({"hold_period_days": 8})).await;
        change(json!({"status": "paused"})).await;
        change(json!({"status": "active"})).await;
        api.clock.advance_secs(5);
        change(json!({"status": "archived", "payout_schedule": "weekly"})).await;
        assert_eq!(change(json!({"payout_schedule": null})).await["data"]["payout_schedule"], Value::Null);

        let now = NOW.as_micros();
        let statuses = rows(&db.db, "SELECT effective_at_us, status FROM program_status ORDER BY effective_at_us").await;
        let expected = [(0, "draft"), (1, "active"), (now, "paused"), (now + 1, "active"), (now + 5_000_000, "archived")];
        assert_eq!(statuses, expected.map(|(at, word)| (at, word.to_owned())));
        let terms = rows(&db.db, "SELECT effective_at_us, terms FROM program_terms ORDER BY version").await;
        let begins: Vec<i64> = terms.iter().map(|(at, _)| *at).collect();
        assert_eq!(begins, [0, now, now + 1]);
        assert!(terms[0].1.contains("1000") && terms[1].1.contains("2000"), "{terms:?}");

        for (body, status, code) in [
            (json!({"status": "active"}), 409, "INVALID_STATE"),
            (json!({"status": "draft"}), 409, "INVALID_STATE"),
            (json!({"owner_organization_id": "org_default"}), 400, "INVALID_ORGANIZATION"),
            (json!({"name": ""}), 400, "INVALID_NAME"),
        ] {
            assert_eq!(api.refusal(&api.operator, Method::PATCH, &path, &body).await, (status, code.to_owned()));
        }
        let enrollments = format!("{path}/enrollments");
        let refusal = api.refusal(&api.operator, Method::POST, &enrollments, &json!({"email": "a@x.org"})).await;
        assert_eq!(refusal, (409, "INVALID_STATE".to_owned()));
    }

    async fn two_changes_at_once_both_leave_their_version(db: TestDb) {
        let api = Api::new(&db.db).await;
        let path = format!("{PROGRAMS}/{}", api.program(&api.operator).await);
        let change = async |days: u16| {
            api.call(&api.operator, Method::PATCH, &path, &json!({"hold_period_days": days})).await.0
        };
        let (first, second) = tokio::join!(change(5), change(6));
        assert_eq!((first, second), (StatusCode::OK, StatusCode::OK));
        let versions: Vec<i64> = db.db.read().await.unwrap()
            .q("SELECT version FROM program_terms ORDER BY version").scalars().await.unwrap();
        assert_eq!(versions, [1, 2, 3]);
    }

    async fn lists_come_in_pages_newest_first(db: TestDb) {
        let api = Api::new(&db.db).await;
        let (_, tenant) = api.tenant("Own").await;
        let mut made = Vec::new();
        for _ in 0..5 {
            api.clock.advance_secs(1);
            made.push(api.program(&tenant).await);
        }
        made.reverse();
        api.program(&api.operator).await;
        let (mut seen, mut path) = (Vec::new(), format!("{PROGRAMS}?limit=2"));
        loop {
            let (_, page) = api.call(&tenant, Method::GET, &path, &Value::Null).await;
            let rows = page["data"].as_array().unwrap();
            assert!(rows.len() <= 2);
            seen.extend(rows.iter().map(id_of));
            let Some(cursor) = page["next_cursor"].as_str() else { break };
            path = format!("{PROGRAMS}?limit=2&cursor={cursor}");
        }
        assert_eq!(seen, made);
        for (query, code) in [("limit=0", "INVALID_LIMIT"), ("limit=101", "INVALID_LIMIT"), ("cursor=x", "INVALID_CURSOR")] {
            let refusal = api.refusal(&tenant, Method::GET, &format!("{PROGRAMS}?{query}"), &Value::Null).await;
            assert_eq!(refusal, (400, code.to_owned()));
        }
    }

    async fn affiliates_are_enrolled_by_organization_or_address(db: TestDb) {
        let api = Api::new(&db.db).await;
        let (_, owner) = api.tenant("Owner").await;
        let (affiliate, _) = api.tenant("Affiliate").await;
        let program = api.program(&owner).await;
        let path = format!("{PROGRAMS}/{program}/enrollments");
        let first = api.create(&owner, &path, json!({"affiliate_org_id": affiliate, "code": "Summer"})).await;
        assert_eq!((&first["status"], &first["code"]), (&json!("active"), &json!("Summer")));
        let second = api
            .create(&owner, &path, json!({"email": "Bo@x.org", "parent_enrollment_id": first["id"]}))
            .await;
        let code = second["code"].as_str().unwrap();
        assert!(code.starts_with("aff_") && code.len() == 14, "{code}");
        assert_eq!(second["parent_enrollment_id"], first["id"]);
        let invited = second["affiliate_org_id"].as_str().unwrap().to_owned();
        let (_, shown) =
            api.call(&api.operator, Method::GET, &format!("/v1/admin/organizations/{invited}"), &Value::Null).await;
        assert_eq!(shown["data"]["email"], json!("Bo@x.org"));

        let elsewhere = format!("{PROGRAMS}/{}/enrollments", api.program(&owner).await);
        let (status, listed) = api.call(&owner, Method::GET, &path, &Value::Null).await;
        assert_eq!((status, listed["data"].as_array().unwrap().len()), (StatusCode::OK, 2));
        for (path, body, status, code) in [
            (&path, json!({"affiliate_org_id": affiliate}), 409, "ALREADY_ENROLLED"),
            (&path, json!({"email": "c@x.org", "code": "sUMMER"}), 409, "CODE_TAKEN"),
            (&elsewhere, json!({"email": "c@x.org", "code": "summer"}), 409, "CODE_TAKEN"),
            (&elsewhere, json!({"email": "c@x.org", "parent_enrollment_id": first["id"]}), 400, "INVALID_PARENT"),
            (&path, json!({"email": "c@x.org", "parent_enrollment_id": "nobody"}), 400, "INVALID_PARENT"),
            (&path, json!({"email": "c@x.org", "code": "a b"}), 400, "INVALID_CODE"),
            (&path, json!({"email": "c@x.org", "status": "suspended"}), 400, "INVALID_STATUS"),
            (&path, json!({"email": "nobody"}), 400, "INVALID_EMAIL"),
            (&path, json!({}), 400, "INVALID_AFFILIATE"),
            (&path, json!({"email": "c@x.org", "affiliate_org_id": affiliate}), 400, "INVALID_AFFILIATE"),
            (&path, json!({"affiliate_org_id": "org_nobody"}), 404, "NOT_FOUND"),
            (&path, json!({"email": "c@x.org", "bonus": 1}), 400, "INVALID_BODY"),
        ] {
            assert_eq!(api.refusal(&owner, Method::POST, path, &body).await, (status, code.to_owned()), "{body}");
        }
        let left: Vec<String> = db.db.read().await.unwrap()
            .q("SELECT name FROM organization WHERE email IS NOT NULL").scalars().await.unwrap();
        assert_eq!(left, ["Bo@x.org"], "a refused enrollment leaves no organization behind");
        // The same code is free for another owner.
        let other = format!("{PROGRAMS}/{}/enrollments", api.program(&api.operator).await);
        api.create(&api.operator, &other, json!({"affiliate_org_id": affiliate, "code": "summer"})).await;
    }

    async fn enrollments_are_approved_suspended_and_rejected_with_their_beginnings(db: TestDb) {
        let api = Api::new(&db.db).await;
        let path = format!("{PROGRAMS}/{}/enrollments", api.program(&api.operator).await);
        let made = api.create(&api.operator, &path, json!({"email": "a@x.org", "status": "pending"})).await;
        let one = format!("{path}/{}", id_of(&made));
        for (verdict, expected) in [
            ("suspend", Err("INVALID_STATE")),
            ("approve", Ok("active")),
            ("approve", Ok("active")),
            ("suspend", Ok("suspended")),
            ("suspend", Ok("suspended")),
            ("reject", Err("INVALID_STATE")),
            ("approve", Ok("active")),
            ("reject", Ok("rejected")),
            ("reject", Ok("rejected")),
            ("suspend", Err("INVALID_STATE")),
            ("approve", Ok("active")),
        ] {
            let (status, answer) =
                api.call(&api.operator, Method::POST, &format!("{one}/{verdict}"), &Value::Null).await;
            match expected {
                Ok(word) => assert_eq!((status.as_u16(), &answer["data"]["status"]), (200, &json!(word))),
                Err(code) => assert_eq!((status.as_u16(), &answer["error"]["code"]), (409, &json!(code))),
            }
        }
        let now = NOW.as_micros();
        let statuses =
            rows(&db.db, "SELECT effective_at_us, status FROM enrollment_status ORDER BY effective_at_us").await;
        let expected = [
            (0, "pending"), (1, "active"), (now, "suspended"), (now + 1, "active"), (now + 2, "rejected"),
            (now + 3, "active"),
        ];
        assert_eq!(statuses, expected.map(|(at, word)| (at, word.to_owned())));
    }
}
