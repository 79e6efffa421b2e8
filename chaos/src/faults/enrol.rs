//! Deaths of a node that joins, that proves itself anew, or that finds out that it must leave.

use std::process::Stdio;

use anyhow::{Context, Result, bail, ensure};
use ratoon::demo::processes::NodeProcess;
use tokio::process::Command;

use super::pulls::leave;
use super::stage::{PATIENCE, Stage, VARIABLE, settings, start_faulty, wait_for_death};

/// How a command ended.
pub struct Outcome {
    /// Its exit code; None: a signal ended it.
    pub code: Option<i32>,
    /// What it said.
    pub text: String,
}

/// Runs a command of the program to its end, without anything of the person's own environment.
pub async fn command(
    program: &std::path::Path,
    profiles: &std::path::Path,
    words: &[String],
    place: Option<&str>,
) -> Result<Outcome> {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("RATOON_") {
            command.env_remove(name);
        }
    }
    command.envs(place.map(|place| (VARIABLE, place))).env("RATOON_CONFIG_DIR", profiles);
    let output = command.args(words).stdin(Stdio::null()).kill_on_drop(true).output().await?;
    let text = [output.stdout, output.stderr].concat();
    Ok(Outcome { code: output.status.code(), text: String::from_utf8_lossy(&text).into_owned() })
}

/// Runs a command that must die at `place`.
pub async fn die(
    program: &std::path::Path,
    profiles: &std::path::Path,
    words: &[String],
    place: &str,
) -> Result<()> {
    let outcome = command(program, profiles, words, Some(place)).await?;
    let point = place.split(':').next().unwrap_or(place);
    let is_there = outcome.text.contains(&format!("fault: {point}: "));
    ensure!(outcome.code.is_none() && is_there, "it did not die there: {}", outcome.text);
    Ok(())
}

/// The flags that tell a command where a node lives and listens.
pub fn flags(node: &NodeProcess) -> Vec<String> {
    let at = node.addresses();
    let mut flags = vec!["--data".to_owned(), node.data().display().to_string()];
    for (name, address) in [
        ("--listen-raft", at.raft),
        ("--listen-bulk", at.bulk),
        ("--listen-api", at.api),
        ("--listen-http", at.http),
    ] {
        flags.extend([name.to_owned(), address.to_string()]);
    }
    flags
}

/// `join` dies at `place` and is run again, with another token if the first one is spent.
pub async fn join(stage: &mut Stage, place: &str) -> Result<String> {
    let mut node = stage.joiner(true).await?;
    let program = stage.launcher.executable().to_owned();
    let profiles = stage.launcher.profile_directory();
    let words =
        |token: &str| [vec!["join".to_owned()], flags(&node), vec![token.to_owned()]].concat();
    let token = stage.client.create_token(0, true).await?.token;
    die(&program, &profiles, &words(&token), place).await?;
    let again = command(&program, &profiles, &words(&token), None).await?;
    let how = match again.code {
        Some(0) => "joined with the same command",
        Some(3) if again.text.contains("token was used") => {
            ensure!(again.text.contains("token create"), "no way out is told: {}", again.text);
            let token = stage.client.create_token(0, true).await?.token;
            let last = command(&program, &profiles, &words(&token), None).await?;
            ensure!(last.code == Some(0), "with a new token: {}", last.text);
            "joined with a new token, as told"
        }
        _ => bail!("the second join: {}", again.text),
    };
    node.start()?;
    node.wait_until_ready(PATIENCE.as_secs()).await?;
    stage.check(Some(&mut node)).await?;
    leave(stage, node).await?;
    Ok(how.to_owned())
}

/// A node that tells others another host dies at `place` while it certifies itself for that.
pub async fn renew(stage: &mut Stage, place: &str) -> Result<String> {
    let number = stage.follower().await?;
    stage.nodes[number].kill().await?;
    let node = &mut stage.nodes[number];
    let port = node.addresses().api.port();
    // Every loopback address is this machine; one that no certificate names yet is drawn.
    let host = format!("127.0.{}.{}", port >> 8, place.len());
    let moved = settings(&[format!("advertise.api={host}:{port}")]);
    node.set(&moved);
    let before = start_faulty(node, place)?;
    wait_for_death(node, place, before).await?;
    node.runs_as(None, Vec::new());
    node.start()?;
    node.wait_until_ready(PATIENCE.as_secs()).await?;
    stage.check(None).await?;
    stage.nodes[number].kill().await?;
    stage.come_back(number).await?;
    Ok("came back under its new certificate, equal".to_owned())
}

/// The disk of a node is set back. It dies at `place` while it notes that, ends at its next start,
/// and another takes its place.
pub async fn lose(stage: &mut Stage, place: &str) -> Result<String> {
    let number = stage.follower().await?;
    let copy = stage.directory().join("copy");
    ensure!(stage.nodes[number].stop().await, "it did not end in order");
    copy_tree(stage.nodes[number].data(), &copy).await?;
    stage.come_back(number).await?;
    stage.write_some().await?;
    stage.check(None).await?;
    stage.nodes[number].kill().await?;
    let data = stage.nodes[number].data().to_owned();
    std::fs::remove_dir_all(&data)?;
    std::fs::rename(&copy, &data)?;
    let node = &mut stage.nodes[number];
    let before = start_faulty(node, place)?;
    wait_for_death(node, place, before).await?;
    node.runs_as(None, Vec::new());
    node.start()?;
    let (status, log) = stage
        .wait_for("that the node ends", async |stage| stage.nodes[number].take_ended().ok()?)
        .await?;
    ensure!(status.contains("exit status: 3"), "it ended otherwise ({status}): {log}");
    ensure!(log.contains("lost acknowledged entries"), "it does not say why: {log}");
    stage.client.remove_node(stage.ids[number]).await?;
    let mut node = stage.joiner(false).await?;
    node.start()?;
    node.wait_until_ready(PATIENCE.as_secs()).await?;
    stage.nodes[number] = node;
    stage.meet().await?;
    Ok("never starts again, replaced as told, equal".to_owned())
}

async fn copy_tree(from: &std::path::Path, to: &std::path::Path) -> Result<()> {
    let status = Command::new("cp").arg("-a").args([from, to]).status().await.context("run cp")?;
    ensure!(status.success(), "cp failed: {status}");
    Ok(())
}
