//! Acknowledged means durable, also at the database (reliability.md D3).

use deadpool_postgres::GenericClient;

use crate::Error;

/// Refuses a server whose settings allow it to lose what it acknowledged: `fsync`,
/// `full_page_writes` and `synchronous_commit` must be on. Missing data checksums are logged.
///
/// # Errors
/// [`Error::NotDurable`] names the setting; [`Error::Sql`] when the server cannot be asked.
pub async fn assert_durable(client: &impl GenericClient) -> Result<(), Error> {
    const SQL: &str = "
        SELECT name, setting FROM pg_settings
        WHERE name IN ('fsync', 'full_page_writes', 'synchronous_commit', 'data_checksums')";
    for row in client.query(SQL, &[]).await? {
        let (name, value): (String, String) = (row.try_get(0)?, row.try_get(1)?);
        let good = match name.as_str() {
            // With a synchronous standby, remote_apply promises even more than on.
            "synchronous_commit" => value == "on" || value == "remote_apply",
            "data_checksums" => {
                if value != "on" {
                    tracing::warn!("the database keeps no data checksums, so damage may go unseen");
                }
                true
            }
            _ => value == "on",
        };
        if !good {
            return Err(Error::NotDurable {
                name,
                value,
                wanted: "on",
            });
        }
    }
    Ok(())
}
