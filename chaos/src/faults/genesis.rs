//! Deaths of `init`: run again it makes the cluster, or says what stands in its way.

use anyhow::{Result, bail, ensure};
use bytes::Bytes;
use ratoon::client::{Client, Profile};
use ratoon::demo::ports::Ports;
use ratoon::demo::processes::NodeAddresses;
use ratoon::types::{CollectionName, Consistency, Name};

use super::Options;
use super::enrol::{command, die, flags};
use super::stage::{PATIENCE, launcher};

/// `init` dies at `place` and is run again, in an emptied directory if that is what it asks for;
/// then the node starts, and its profile opens it.
pub async fn strike(options: &Options, place: &str) -> Result<String> {
    let directory = tempfile::tempdir_in(&options.directory)?;
    let launcher = launcher(&options.program, directory.path())?;
    let profiles = launcher.profile_directory();
    let program = launcher.executable().to_owned();
    let mut node = launcher.node(1, NodeAddresses::draw(&mut Ports::default())?);
    let words = [vec!["init".to_owned()], flags(&node)].concat();
    die(&program, &profiles, &words, place).await?;
    let again = command(&program, &profiles, &words, None).await?;
    let how = match again.code {
        Some(0) => "made with the same command",
        Some(1) if again.text.contains("empty it and try again") => {
            std::fs::remove_dir_all(node.data())?;
            let last = command(&program, &profiles, &words, None).await?;
            ensure!(last.code == Some(0), "in an emptied directory: {}", last.text);
            "made in an emptied directory, as told"
        }
        Some(1) if again.text.contains("ratoon start") => "was made: starts, as told",
        _ => bail!("the second init ({:?}): {}", again.code, again.text),
    };
    node.start()?;
    node.wait_until_ready(PATIENCE.as_secs()).await?;
    let client = Client::connect(&Profile::load_from(&profiles, "default")?)?;
    let collection = CollectionName::parse("faults", "first")?;
    client.create_namespace(&Name::parse("namespace", "faults")?).await?;
    client.create_collection(&collection).await?;
    client.put(&collection, Bytes::from("key"), Bytes::from("value")).await?;
    let read = client.get(&collection, Bytes::from("key"), Consistency::Linearizable).await?;
    ensure!(read.is_some_and(|record| record.value == "value"), "a write is gone");
    node.kill().await?;
    Ok(how.to_owned())
}
