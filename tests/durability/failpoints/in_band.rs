//! An in-band task between aggregators that a control plane has introduced to each other.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use dapbox::{
    aggregator::taskprov::verify_key,
    config::Config,
    model::{Secret, Time},
    support::clock,
    wire::taskprov::advertise,
};
use serde_json::json;

use super::{
    fixture::{Fixture, FixtureParams},
    managed::{TOKEN, accept_token, manageable},
};

const PATH: &str = "/taskprov/peer_aggregators";

fn short_jobs(config: &mut Config) {
    manageable(config);
    (config.leader.max_job_size, config.leader.min_job_size) = (2, 1);
}

/// Introduces leader and helper to each other, twice each. The repeated request gets the same answer.
async fn name_peers(fixture: &Fixture, init: &Secret) {
    let (parties, task) = (&fixture.parties, fixture.parties.task());
    let bearer = |token: &Secret| json!([{ "type": "Bearer", "token": token.expose_text().unwrap() }]);
    let config = parties.keypair.config();
    for (machine, role, endpoint, collector_tokens) in [
        (&fixture.leader, "Helper", &task.helper_url, bearer(&parties.collector_token)),
        (&fixture.helper, "Leader", &task.leader_url, json!([])),
    ] {
        let order = json!({
            "endpoint": endpoint,
            "role": role,
            "collector_hpke_config": {
                "id": config.id,
                "kem_id": "X25519HkdfSha256",
                "kdf_id": "HkdfSha256",
                "aead_id": "Aes128Gcm",
                "public_key": URL_SAFE_NO_PAD.encode(&config.public_key),
            },
            "verify_key_init": URL_SAFE_NO_PAD.encode(init.expose()),
            "report_expiry_age": null,
            "tolerable_clock_skew": 60,
            "aggregator_auth_tokens": bearer(&parties.helper_token),
            "collector_auth_tokens": collector_tokens,
        });
        let (status, first) = machine.manage(TOKEN, "POST", PATH, Some(&order)).await;
        assert_eq!(status, 201, "{first}");
        assert_eq!(machine.manage(TOKEN, "POST", PATH, Some(&order)).await, (201, first.clone()));
        assert_eq!(machine.manage(TOKEN, "GET", PATH, None).await, (200, json!([first])));
    }
}

pub async fn run(params: FixtureParams) {
    let mut fixture = Fixture::build(params, None, short_jobs, manageable, |_| {}).await;
    accept_token(&fixture).await;
    fixture.discard().await;
    let init = Secret::random(32);
    name_peers(&fixture, &init).await;

    let mut public = fixture.parties.task().clone();
    public.task_expiration = Some(Time(clock::now().0 + 86_400));
    let task = advertise(public, Bytes::from_static(b"fixture"), 1).unwrap();
    fixture.parties = fixture.parties.clone().with(|known| {
        known.public = task.configuration.public.clone();
        known.verify_key = verify_key(&init, &known.public.id, known.verify_key.expose().len());
    });
    fixture.configuration = Some(task.bytes.clone());
    fixture.upload_numbers(clock::now()).await;
    fixture.collect(fixture.parties.query_now()).await;
    fixture.check_counts().await;
    for (machine, role, endpoint) in [
        (&fixture.leader, "Helper", &fixture.parties.task().helper_url),
        (&fixture.helper, "Leader", &fixture.parties.task().leader_url),
    ] {
        assert!(machine.status(&fixture.parties.id()).await.in_band.is_some());
        let name = json!({ "endpoint": endpoint, "role": role });
        assert_eq!(machine.manage(TOKEN, "DELETE", PATH, Some(&name)).await.0, 204);
        assert_eq!(machine.manage(TOKEN, "GET", PATH, None).await, (200, json!([])));
    }
    fixture.stop().await;
}
