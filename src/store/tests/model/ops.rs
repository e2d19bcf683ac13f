//! Applies random operations to the store and to the model.

use super::{expire::overlap, *};

/// Applies an operation to the store and to the model, if callers may request it.
pub(super) fn apply(tx: &mut Tx<'_>, model: &mut Model, n: u8, op: Op) -> Result<(), Fault> {
    let id = task_id(n);
    if let Op::AddTask = op {
        if !model.tasks.contains_key(&n) && !model.removed.contains(&n) {
            model.tasks.insert(n, ModelTask::default());
            tx.add_task(task(n))?;
        }
        return Ok(());
    }
    let Some(known) = model.tasks.get_mut(&n) else { return Ok(()) };
    match op {
        Op::AddTask => {}
        Op::RemoveTask => {
            model.tasks.remove(&n);
            model.removed.insert(n);
            tx.remove_task(&id, Time(3))?;
        }
        Op::Count(by) => {
            *known.counters.entry("things".into()).or_default() += by;
            tx.count(&id, "things", by)?;
        }
        Op::Remember(report, time) => {
            if known.horizon <= Some(Time(time)) {
                known.remembered.entry(report).or_insert(time);
            }
            tx.record_aggregated(&id, &[(report_id(report), Time(time))])?;
        }
        Op::Provision(end) => {
            let provision = Provision { at: Time(1), by: "plane".into(), end: (end > 0).then_some(Time(end)) };
            known.provision = Some(provision.clone());
            tx.put_provision(&id, provision)?;
        }
        Op::InBand(at) => {
            let in_band =
                InBandOrigin { at: Time(at), bytes: Bytes::from_static(b"says"), peer: "https://a.example".into() };
            known.in_band = Some(in_band.clone());
            tx.put_in_band(&id, in_band)?;
        }
        Op::RaiseHorizon(time) => {
            known.raise_horizon(time);
            tx.raise_horizon(&id, Time(time))?;
        }
        Op::CloseBefore(time) => {
            known.raise_horizon(time);
            for bucket in known.buckets.keys().copied().collect::<Vec<_>>() {
                if let Bucket::Batch(id) = bucket {
                    known.abandon(id);
                }
            }
            tx.close_before(&id, Time(time))?;
        }
        Op::PutCollection(job, state) => {
            known.collections.insert(job, collection(job, state));
            tx.put_collection(&id, collection_id(job), collection(job, state))?;
        }
        Op::PutHelperJob(job, len) => {
            let created = Time(u64::from(job) * 100);
            let state = match job {
                1 => HelperJobState::Deleted,
                _ if len % 4 == 0 => HelperJobState::Pending,
                _ => HelperJobState::Answered(Bytes::from(vec![job; len])),
            };
            let record = HelperJobRecord { request_hash: [job; 32], created, state };
            tx.put_helper_job(&id, job_id(job), &record)?;
            known.helper_jobs.insert(job, record);
        }
        other => {
            apply_to_reports(tx, known, &id, other.clone())?;
            apply_to_batches(tx, known, &id, other.clone())?;
            apply_to_resources(tx, known, &id, other)?;
        }
    }
    Ok(())
}

pub(super) fn apply_to_reports(tx: &mut Tx<'_>, known: &mut ModelTask, id: &TaskId, op: Op) -> Result<(), Fault> {
    match op {
        Op::Append(n, time, len) if known.reports.values().all(|(other, _)| *other != n) => {
            let report = report(n, time, len);
            let at = tx.append_report(id, &report)?;
            assert!(known.reports.keys().all(|other| *other < at));
            assert!(at < tx.next_position());
            known.reports.insert(at, (n, report));
        }
        Op::StartJob(job, limit) if !known.assigned.contains_key(&job) => {
            let picked = tx.task_mut(id).unwrap().waiting.pick(Time(0), limit, |_| Pick::Take);
            let positions: Vec<_> = picked.taken.iter().map(|entry| entry.at).collect();
            assert_eq!(positions, known.waiting().into_iter().take(limit).collect::<Vec<_>>());
            known.assigned.insert(job, positions.clone());
            tx.put_leader_job(id, job_id(job), leader_job(positions))?;
        }
        Op::EndJob(job, delete) => {
            let Some(positions) = known.assigned.remove(&job) else { return Ok(()) };
            let entry = |at: &ReportRef| {
                let (n, report) = &known.reports[at];
                ReportEntry { id: report_id(*n), time: report.metadata.time, at: *at }
            };
            let entries: Vec<ReportEntry> = positions.iter().map(entry).collect();
            if delete {
                tx.delete_reports(id, &entries.iter().map(|entry| (entry.id, entry.at)).collect::<Vec<_>>())?;
                positions.iter().for_each(|at| drop(known.reports.remove(at)));
            } else {
                tx.task_mut(id).unwrap().waiting.defer(&entries, Time(0));
            }
            tx.end_leader_job(id, &job_id(job))?;
        }
        Op::DeleteWaiting(place) => {
            let Some(at) = known.waiting().get(place).copied() else { return Ok(()) };
            let (n, _) = known.reports.remove(&at).unwrap();
            tx.delete_reports(id, &[(report_id(n), at)])?;
        }
        _ => {}
    }
    Ok(())
}

pub(super) fn apply_to_batches(tx: &mut Tx<'_>, known: &mut ModelTask, id: &TaskId, op: Op) -> Result<(), Fault> {
    match op {
        Op::AbandonBatch(n) => {
            let before = known.abandoned.len();
            known.abandon(BatchId::new([n; 32]));
            assert_eq!(tx.abandon_batch(id, BatchId::new([n; 32]))?, known.abandoned.len() > before);
        }
        Op::AddToBucket(bucket, len) => {
            let mine = known.buckets.entry(bucket).or_insert(BucketRecord::EMPTY);
            let mut theirs = tx.bucket_mut(id, bucket)?;
            assert_eq!(theirs.share(), mine.share);
            let time = Time(len as u64);
            mine.count += 1;
            (mine.first, mine.last) = (mine.first.min(time), mine.last.max(time));
            theirs.header.count += 1;
            (theirs.header.first, theirs.header.last) = (mine.first, mine.last);
            mine.share = vec![len as u8; len];
            assert!(theirs.replace_share(mine.share.clone()).len() <= 200_000);
        }
        Op::Collect(batch, len) => {
            let overlaps = known.collected.iter().any(|other| overlap(&other.batch, &batch));
            assert_eq!(tx.task(id).unwrap().collected.overlaps(&batch), overlaps);
            if !overlaps && !matches!(batch, BatchSelector::FixedSize(id) if known.abandoned.contains_key(&id)) {
                let (request_hash, answer) = ([len as u8; 32], vec![3; len]);
                let party = CollectedBy::Helper { request_hash, answer };
                let row = CollectedBatch { batch, report_count: len as u64, checksum: Checksum::default(), party };
                tx.put_collected(id, &row)?;
                let (first, stage) = (row.report_count, ResultStage::Fetched { at: Time(len as u64) });
                let interval = Interval::new(Time(first), Duration(PRECISION)).unwrap();
                let result = ResultRecord { report_count: first, interval, closed: Time(5), stage };
                tx.put_result(id, batch, result)?;
                known.results.insert(batch, result);
                known.collected.push(row);
            }
        }
        Op::Name(n) => {
            known.names.insert(BatchId::new([n; 32]));
            tx.name_batch(id, BatchId::new([n; 32]))?;
        }
        _ => {}
    }
    Ok(())
}

pub(super) fn apply_to_resources(tx: &mut Tx<'_>, known: &mut ModelTask, id: &TaskId, op: Op) -> Result<(), Fault> {
    match op {
        Op::PutHelperRequest(job, len) => {
            let body = Bytes::from(vec![job; len]);
            tx.put_helper_request(id, job_id(job), &body)?;
            known.helper_requests.insert(job, body);
        }
        Op::EndHelperRequest(job) => {
            let was_there = known.helper_requests.remove(&job).is_some();
            assert_eq!(tx.end_helper_request(id, &job_id(job))?, was_there);
        }
        Op::NameShare(share, batch) => {
            known.shares.insert(share, batch);
            tx.put_share(id, share_id(share), &batch)?;
            assert_eq!(tx.share(id, &share_id(share))?, Some(batch));
        }
        Op::RaiseGeneration(kind, hash) => {
            let mine = known.generations.entry((kind, hash)).or_default();
            *mine = (mine.0 + 1, None);
            tx.raise_generation(id, kind, &[hash; 32])?;
            assert_eq!(tx.generation(id, kind, &[hash; 32])?, mine.0);
        }
        _ => {}
    }
    Ok(())
}
