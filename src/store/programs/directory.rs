//! What a batch of sales can touch of programs, enrollments and codes, loaded in eight statements
//! whatever the size of the batch, and the lock that lets a change of it miss no sale.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use sqlx::FromRow;

use crate::{
    domain::{
        ids::{EnrollmentId, OrganizationId, ProgramId, ProjectId},
        program::{Code, Dated, Directory, Enrollment, Program, TermsVersion, TouchRule, TouchRules},
        time::Timestamp,
    },
    store::{
        Conn, Sql, StoreError, Tx,
        row::{At, json_list},
    },
};

/// Keeps the owners of these projects from changing, until this transaction ends, what already holds for
/// sales of the past. Call it before [`load_directory`].
///
/// A fold that reads the directory while an affiliate is being approved would commit a sale that the
/// approval did not see and that did not see the approval. With this and [`lock_directory`], one of the
/// two comes first. Folds do not wait for each other: it is the lock that a foreign key to the project
/// takes, too.
pub async fn share_directory(tx: &mut Tx, projects: &BTreeSet<&ProjectId>) -> Result<(), StoreError> {
    const SQL: Sql = Sql {
        sqlite: "SELECT id FROM project WHERE id IN (SELECT value->>'id' FROM json_each($1)) ORDER BY id",
        postgres: "SELECT id FROM project WHERE id IN (SELECT value->>'id' FROM json_each($1)) ORDER BY id
            FOR KEY SHARE",
    };
    if !projects.is_empty() {
        tx.q(SQL).bind(id_list(projects.iter().copied())).scalars::<String>().await?;
    }
    Ok(())
}

/// Waits for every fold of the owner's sales that is under way, and keeps new ones waiting until this
/// transaction ends: what it reads of sales afterwards is all there is. See [`share_directory`].
pub async fn lock_directory(tx: &mut Tx, owner: &OrganizationId) -> Result<(), StoreError> {
    // The strongest row lock, the only one that a `FOR KEY SHARE` waits for.
    const SQL: Sql = Sql {
        sqlite: "SELECT id FROM project WHERE organization_id = $1 ORDER BY id",
        postgres: "SELECT id FROM project WHERE organization_id = $1 ORDER BY id FOR UPDATE",
    };
    tx.q(SQL).bind(owner.as_str()).scalars::<String>().await?;
    Ok(())
}

/// Loads the named codes and enrollments, with everything the fold reads of them: the enrollments that
/// the codes name, everybody who ever was above one of them, the programs of all enrollments, statuses,
/// terms and e-mail addresses.
///
/// A code is named by its owner and its text as [`crate::domain::program::normalise_code`] gives it.
/// What does not exist is absent from the result.
pub async fn load_directory(
    conn: &mut Conn,
    codes: &[(OrganizationId, String)],
    enrollments: &[EnrollmentId],
) -> Result<Directory, StoreError> {
    let codes = load_codes(conn, codes).await?;
    let named: BTreeSet<&EnrollmentId> =
        enrollments.iter().chain(codes.values().map(|code| &code.enrollment_id)).collect();
    let mut enrollments = load_enrollments(conn, &named).await?;
    load_enrollment_statuses(conn, &mut enrollments).await?;
    load_sponsors(conn, &mut enrollments).await?;
    load_emails(conn, &mut enrollments).await?;
    load_rates(conn, &mut enrollments).await?;
    let owners: BTreeSet<&ProgramId> =
        enrollments.values().map(|enrollment| &enrollment.program_id).collect();
    let mut programs = load_programs(conn, &owners).await?;
    load_program_statuses(conn, &mut programs).await?;
    load_touch_rules(conn, &mut programs).await?;
    load_terms(conn, &mut programs).await?;
    Ok(Directory { programs, enrollments, codes, multi_level: false })
}

/// One program with everything the fold reads of it, and nobody enrolled.
pub async fn load_program(conn: &mut Conn, id: &ProgramId) -> Result<Directory, StoreError> {
    let mut programs = load_programs(conn, &BTreeSet::from([id])).await?;
    load_program_statuses(conn, &mut programs).await?;
    load_terms(conn, &mut programs).await?;
    Ok(Directory { programs, ..Directory::default() })
}

/// A list of ids for `json_each`. The elements are objects because the engines disagree on how a plain
/// text element is taken out.
fn id_list<'a, T: Serialize + 'a>(ids: impl IntoIterator<Item = &'a T>) -> String {
    #[derive(Serialize)]
    struct Id<'a, T> {
        id: &'a T,
    }
    json_list(ids.into_iter().map(|id| Id { id }))
}

/// Which of these codes, each with the project that heard it, have an end.
pub async fn retired_codes(
    conn: &mut Conn,
    codes: &BTreeSet<(&ProjectId, &str)>,
) -> Result<BTreeSet<(ProjectId, String)>, StoreError> {
    const SQL: &str = "SELECT project.id, code.code_normalised
                       FROM json_each($1) AS heard
                       JOIN project ON project.id = heard.value->>'project'
                       JOIN code ON code.organization_id = project.organization_id
                                AND code.code_normalised = heard.value->>'code'
                       WHERE code.valid_to_us IS NOT NULL";
    #[derive(Serialize)]
    struct Heard<'a> {
        project: &'a ProjectId,
        code: &'a str,
    }
    if codes.is_empty() {
        return Ok(BTreeSet::new());
    }
    let heard = json_list(codes.iter().map(|(project, code)| Heard { project, code }));
    let rows: Vec<(String, String)> = conn.q(SQL).bind(heard).all().await?;
    rows.into_iter().map(|(id, code)| Ok((At { table: "project", id: &id }.read("id", &id)?, code))).collect()
}

type Codes = BTreeMap<(OrganizationId, String), Code>;

async fn load_codes(conn: &mut Conn, wanted: &[(OrganizationId, String)]) -> Result<Codes, StoreError> {
    const SQL: &str = "SELECT code.organization_id, code.code_normalised, code.enrollment_id,
                              code.valid_from_us, code.valid_to_us
                       FROM json_each($1) AS wanted
                       JOIN code ON code.organization_id = wanted.value->>'owner'
                                AND code.code_normalised = wanted.value->>'code'";
    #[derive(Serialize)]
    struct Wanted<'a> {
        owner: &'a OrganizationId,
        code: &'a str,
    }
    #[derive(FromRow)]
    struct Row {
        organization_id: String,
        code_normalised: String,
        enrollment_id: String,
        valid_from_us: i64,
        valid_to_us: Option<i64>,
    }
    if wanted.is_empty() {
        return Ok(Codes::new());
    }
    let wanted = json_list(wanted.iter().map(|(owner, code)| Wanted { owner, code }));
    let rows: Vec<Row> = conn.q(SQL).bind(wanted).all().await?;
    rows.into_iter()
        .map(|row| {
            let at = At { table: "code", id: &row.code_normalised };
            let owner = at.read("organization_id", &row.organization_id)?;
            let code = Code {
                enrollment_id: at.read("enrollment_id", &row.enrollment_id)?,
                valid_from: Timestamp::from_micros(row.valid_from_us),
                valid_to: row.valid_to_us.map(Timestamp::from_micros),
            };
            Ok(((owner, row.code_normalised), code))
        })
        .collect()
}

async fn load_enrollments(
    conn: &mut Conn,
    ids: &BTreeSet<&EnrollmentId>,
) -> Result<BTreeMap<EnrollmentId, Enrollment>, StoreError> {
    // Over time two enrollments may each have been above the other; `UNION` ends the walk all the same.
    const SQL: &str = "WITH RECURSIVE touched (id) AS (
            SELECT enrollment.id FROM json_each($1) AS wanted
            JOIN enrollment ON enrollment.id = wanted.value->>'id'
            UNION
            SELECT sponsor.parent_enrollment_id FROM touched
            JOIN enrollment_sponsor AS sponsor ON sponsor.enrollment_id = touched.id
            WHERE sponsor.parent_enrollment_id IS NOT NULL)
        SELECT enrollment.id, enrollment.program_id, enrollment.organization_id
        FROM touched JOIN enrollment ON enrollment.id = touched.id";
    if ids.is_empty() {
        return Ok(BTreeMap::new());
    }
    let rows: Vec<(String, String, String)> = conn.q(SQL).bind(id_list(ids.iter().copied())).all().await?;
    rows.iter()
        .map(|(id, program_id, organization_id)| {
            let at = At { table: "enrollment", id };
            let enrollment = Enrollment {
                id: at.read("id", id)?,
                program_id: at.read("program_id", program_id)?,
                organization_id: at.read("organization_id", organization_id)?,
                statuses: Vec::new(),
                emails: BTreeSet::new(),
                rates: Vec::new(),
                sponsors: Vec::new(),
            };
            Ok((enrollment.id.clone(), enrollment))
        })
        .collect()
}

async fn load_enrollment_statuses(
    conn: &mut Conn,
    enrollments: &mut BTreeMap<EnrollmentId, Enrollment>,
) -> Result<(), StoreError> {
    const SQL: &str = "SELECT status.enrollment_id, status.effective_at_us, status.status
                       FROM json_each($1) AS wanted
                       JOIN enrollment_status AS status ON status.enrollment_id = wanted.value->>'id'
                       ORDER BY status.enrollment_id, status.effective_at_us";
    if enrollments.is_empty() {
        return Ok(());
    }
    let rows: Vec<(String, i64, String)> = conn.q(SQL).bind(id_list(enrollments.keys())).all().await?;
    for (id, effective_at_us, status) in rows {
        let at = At { table: "enrollment_status", id: &id };
        let value = at.read("status", &status)?;
        if let Some(enrollment) = enrollments.get_mut(&at.read::<EnrollmentId>("enrollment_id", &id)?) {
            enrollment.statuses.push(Dated { at: Timestamp::from_micros(effective_at_us), value });
        }
    }
    Ok(())
}

async fn load_sponsors(
    conn: &mut Conn,
    enrollments: &mut BTreeMap<EnrollmentId, Enrollment>,
) -> Result<(), StoreError> {
    const SQL: &str = "SELECT sponsor.enrollment_id, sponsor.effective_at_us, sponsor.parent_enrollment_id
                       FROM json_each($1) AS wanted
                       JOIN enrollment_sponsor AS sponsor ON sponsor.enrollment_id = wanted.value->>'id'
                       ORDER BY sponsor.enrollment_id, sponsor.effective_at_us";
    if enrollments.is_empty() {
        return Ok(());
    }
    let rows: Vec<(String, i64, Option<String>)> =
        conn.q(SQL).bind(id_list(enrollments.keys())).all().await?;
    for (id, effective_at_us, sponsor) in rows {
        let at = At { table: "enrollment_sponsor", id: &id };
        let value = at.read_opt("parent_enrollment_id", sponsor.as_deref())?;
        if let Some(enrollment) = enrollments.get_mut(&at.read::<EnrollmentId>("enrollment_id", &id)?) {
            enrollment.sponsors.push(Dated { at: Timestamp::from_micros(effective_at_us), value });
        }
    }
    Ok(())
}

async fn load_emails(
    conn: &mut Conn,
    enrollments: &mut BTreeMap<EnrollmentId, Enrollment>,
) -> Result<(), StoreError> {
    const SQL: &str = "SELECT enrollment.id, organization_email.email
                       FROM json_each($1) AS wanted
                       JOIN enrollment ON enrollment.id = wanted.value->>'id'
                       JOIN organization_email
                         ON organization_email.organization_id = enrollment.organization_id";
    if enrollments.is_empty() {
        return Ok(());
    }
    let rows: Vec<(String, String)> = conn.q(SQL).bind(id_list(enrollments.keys())).all().await?;
    for (id, email) in rows {
        let at = At { table: "enrollment", id: &id };
        if let Some(enrollment) = enrollments.get_mut(&at.read::<EnrollmentId>("id", &id)?) {
            enrollment.emails.insert(email);
        }
    }
    Ok(())
}

async fn load_rates(
    conn: &mut Conn,
    enrollments: &mut BTreeMap<EnrollmentId, Enrollment>,
) -> Result<(), StoreError> {
    const SQL: &str = "SELECT rate.enrollment_id, rate.effective_at_us, rate.rate
                       FROM json_each($1) AS wanted
                       JOIN enrollment_rate AS rate ON rate.enrollment_id = wanted.value->>'id'
                       ORDER BY rate.enrollment_id, rate.effective_at_us";
    if enrollments.is_empty() {
        return Ok(());
    }
    let rows: Vec<(String, i64, Option<String>)> =
        conn.q(SQL).bind(id_list(enrollments.keys())).all().await?;
    for (id, effective_at_us, rate) in rows {
        let at = At { table: "enrollment_rate", id: &id };
        let value = at.read_opt("rate", rate.as_deref())?;
        if let Some(enrollment) = enrollments.get_mut(&at.read::<EnrollmentId>("enrollment_id", &id)?) {
            enrollment.rates.push(Dated { at: Timestamp::from_micros(effective_at_us), value });
        }
    }
    Ok(())
}

async fn load_programs(
    conn: &mut Conn,
    ids: &BTreeSet<&ProgramId>,
) -> Result<BTreeMap<ProgramId, Program>, StoreError> {
    const SQL: &str = "SELECT program.id, program.organization_id, program.attribution_model,
                              program.attribution_window_days
                       FROM json_each($1) AS wanted
                       JOIN program ON program.id = wanted.value->>'id'";
    if ids.is_empty() {
        return Ok(BTreeMap::new());
    }
    let rows: Vec<(String, String, String, i64)> =
        conn.q(SQL).bind(id_list(ids.iter().copied())).all().await?;
    rows.iter()
        .map(|(id, organization_id, model, window_days)| {
            let at = At { table: "program", id };
            let program = Program {
                id: at.read("id", id)?,
                organization_id: at.read("organization_id", organization_id)?,
                statuses: Vec::new(),
                terms: Vec::new(),
                touch_rules: TouchRules { newest: touch_rule(at, model, *window_days)?, former: Vec::new() },
            };
            Ok((program.id.clone(), program))
        })
        .collect()
}

fn touch_rule(at: At<'_>, model: &str, window_days: i64) -> Result<TouchRule, StoreError> {
    let window_days = u16::try_from(window_days).map_err(|_| at.corrupt("attribution_window_days"))?;
    Ok(TouchRule { model: at.read("attribution_model", model)?, window_days })
}

async fn load_touch_rules(
    conn: &mut Conn,
    programs: &mut BTreeMap<ProgramId, Program>,
) -> Result<(), StoreError> {
    const SQL: &str = "SELECT rule.program_id, rule.until_us, rule.attribution_model,
                              rule.attribution_window_days
                       FROM json_each($1) AS wanted
                       JOIN program_touch_rule AS rule ON rule.program_id = wanted.value->>'id'
                       ORDER BY rule.program_id, rule.until_us";
    if programs.is_empty() {
        return Ok(());
    }
    let rows: Vec<(String, i64, String, i64)> = conn.q(SQL).bind(id_list(programs.keys())).all().await?;
    for (id, until_us, model, window_days) in rows {
        let at = At { table: "program_touch_rule", id: &id };
        let rule = touch_rule(at, &model, window_days)?;
        if let Some(program) = programs.get_mut(&at.read::<ProgramId>("program_id", &id)?) {
            program.touch_rules.former.push((Timestamp::from_micros(until_us), rule));
        }
    }
    Ok(())
}

async fn load_program_statuses(
    conn: &mut Conn,
    programs: &mut BTreeMap<ProgramId, Program>,
) -> Result<(), StoreError> {
    const SQL: &str = "SELECT status.program_id, status.effective_at_us, status.status
                       FROM json_each($1) AS wanted
                       JOIN program_status AS status ON status.program_id = wanted.value->>'id'
                       ORDER BY status.program_id, status.effective_at_us";
    if programs.is_empty() {
        return Ok(());
    }
    let rows: Vec<(String, i64, String)> = conn.q(SQL).bind(id_list(programs.keys())).all().await?;
    for (id, effective_at_us, status) in rows {
        let at = At { table: "program_status", id: &id };
        let value = at.read("status", &status)?;
        if let Some(program) = programs.get_mut(&at.read::<ProgramId>("program_id", &id)?) {
            program.statuses.push(Dated { at: Timestamp::from_micros(effective_at_us), value });
        }
    }
    Ok(())
}

async fn load_terms(conn: &mut Conn, programs: &mut BTreeMap<ProgramId, Program>) -> Result<(), StoreError> {
    const SQL: &str = "SELECT terms.program_id, terms.version, terms.effective_at_us, terms.terms
                       FROM json_each($1) AS wanted
                       JOIN program_terms AS terms ON terms.program_id = wanted.value->>'id'
                       ORDER BY terms.program_id, terms.effective_at_us, terms.version";
    if programs.is_empty() {
        return Ok(());
    }
    let rows: Vec<(String, i64, i64, String)> = conn.q(SQL).bind(id_list(programs.keys())).all().await?;
    for (id, version, effective_at_us, terms) in rows {
        let at = At { table: "program_terms", id: &id };
        let terms = at.read("terms", &terms)?;
        if let Some(program) = programs.get_mut(&at.read::<ProgramId>("program_id", &id)?) {
            let value = TermsVersion { version, terms };
            program.terms.push(Dated { at: Timestamp::from_micros(effective_at_us), value });
        }
    }
    Ok(())
}
