//! Owners, programs and affiliates written straight into the tables, for tests of the stages.

use remit::{
    domain::{email, program::normalise_code},
    store::{Db, Tx},
};

/// An owner with a project, and how to give it programs and affiliates.
pub struct Owner {
    name: String,
}

impl Owner {
    /// Creates the organization and its project.
    pub async fn create(db: &Db, name: &str) -> Self {
        const ORGANIZATION: &str = "INSERT INTO organization (id, name, created_at_us) VALUES ($1, $2, 0)";
        const PROJECT: &str =
            "INSERT INTO project (id, organization_id, name, created_at_us) VALUES ($1, $2, $3, 0)";
        let owner = Self { name: name.to_owned() };
        let mut tx = db.begin().await.unwrap();
        tx.q(ORGANIZATION).bind(owner.organization()).bind(name).exec().await.unwrap();
        tx.q(PROJECT).bind(owner.project()).bind(owner.organization()).bind(name).exec().await.unwrap();
        tx.commit().await.unwrap();
        owner
    }

    fn organization(&self) -> String {
        format!("org_{}", self.name)
    }

    /// The id of the owner's project.
    pub fn project(&self) -> String {
        format!("proj_{}", self.name)
    }

    /// The id of one of its endpoints.
    pub fn endpoint(&self, name: &str) -> String {
        format!("ep_{}_{name}", self.name)
    }

    /// The id of a program or an enrollment of this owner.
    pub fn id(&self, prefix: &str, reference: &str) -> String {
        format!("{prefix}{}-{reference}", self.name)
    }

    /// Creates a program that has been active from the start, with these terms (JSON).
    pub async fn create_program(&self, db: &Db, reference: &str, terms: &str) {
        const PROGRAM: &str = "INSERT INTO program (id, organization_id, name, conversion_kind,
                attribution_model, attribution_window_days, platform_fee_bps, min_payout,
                on_transfer_reversed, created_at_us)
            VALUES ($1, $2, $3, 'payment', 'last_touch', 30, 0, '{}', 'clawback', 0)";
        const STATUS: &str =
            "INSERT INTO program_status (program_id, effective_at_us, status) VALUES ($1, 0, 'active')";
        const TERMS: &str = "INSERT INTO program_terms (program_id, version, effective_at_us, terms)
            VALUES ($1, 1, 0, $2)";
        let id = self.id("prog_", reference);
        let mut tx = db.begin().await.unwrap();
        tx.q(PROGRAM).bind(&*id).bind(self.organization()).bind(reference).exec().await.unwrap();
        tx.q(STATUS).bind(&*id).exec().await.unwrap();
        tx.q(TERMS).bind(&*id).bind(terms).exec().await.unwrap();
        tx.commit().await.unwrap();
    }

    /// Enrolls an affiliate that has been active from the start.
    pub async fn enroll(&self, db: &Db, program: &str, reference: &str, code: &str, address: &str) {
        const ORGANIZATION: &str =
            "INSERT INTO organization (id, name, email, created_at_us) VALUES ($1, $2, $3, 0)";
        const EMAIL: &str = "INSERT INTO organization_email (organization_id, email) VALUES ($1, $2)";
        const ENROLLMENT: &str = "INSERT INTO enrollment (id, program_id, organization_id, created_at_us)
            VALUES ($1, $2, $3, 0)";
        const STATUS: &str = "INSERT INTO enrollment_status (enrollment_id, effective_at_us, status)
            VALUES ($1, 0, 'active')";
        const CODE: &str = "INSERT INTO code (organization_id, code_normalised, code, kind, enrollment_id,
                valid_from_us)
            VALUES ($1, $2, $3, 'referral', $4, 0)";
        let affiliate = self.id("org_", reference);
        let enrollment = self.id("par_", reference);
        let mut tx: Tx = db.begin().await.unwrap();
        tx.q(ORGANIZATION).bind(&*affiliate).bind(reference).bind(address).exec().await.unwrap();
        tx.q(EMAIL).bind(&*affiliate).bind(email::normalise(address)).exec().await.unwrap();
        tx.q(ENROLLMENT)
            .bind(&*enrollment)
            .bind(self.id("prog_", program))
            .bind(&*affiliate)
            .exec()
            .await
            .unwrap();
        tx.q(STATUS).bind(&*enrollment).exec().await.unwrap();
        tx.q(CODE)
            .bind(self.organization())
            .bind(normalise_code(code))
            .bind(code)
            .bind(&*enrollment)
            .exec()
            .await
            .unwrap();
        tx.commit().await.unwrap();
    }

    /// Places an affiliate under a sponsor from the start.
    pub async fn place_under(&self, db: &Db, affiliate: &str, sponsor: &str) {
        const SQL: &str =
            "INSERT INTO enrollment_sponsor (enrollment_id, effective_at_us, parent_enrollment_id)
            VALUES ($1, 0, $2)";
        let mut tx = db.begin().await.unwrap();
        let (affiliate, sponsor) = (self.id("par_", affiliate), self.id("par_", sponsor));
        tx.q(SQL).bind(affiliate).bind(sponsor).exec().await.unwrap();
        tx.commit().await.unwrap();
    }
}
