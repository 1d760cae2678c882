use std::{path::Path, process::Command};

/// Runs a shell line as somebody who pastes it.
#[track_caller]
pub(crate) fn paste(line: &str) -> String {
    let output = Command::new("sh").args(["-c", line]).output().unwrap();
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// A browser with a cookie jar.
pub(crate) struct Browser<'a> {
    pub(crate) jar: &'a Path,
}

/// What a browser gets, redirects not followed.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) location: String,
    pub(crate) body: String,
}

impl Browser<'_> {
    #[track_caller]
    pub(crate) fn get(&self, url: &str) -> Answer {
        self.ask(&[], url)
    }

    /// Sends a form.
    #[track_caller]
    pub(crate) fn post(&self, url: &str, form: &str) -> Answer {
        self.ask(&["-d", form], url)
    }

    #[track_caller]
    pub(crate) fn ask(&self, arguments: &[&str], url: &str) -> Answer {
        let output = Command::new("curl")
            .args(["-sS", "--noproxy", "*", "-b"])
            .arg(self.jar)
            .arg("-c")
            .arg(self.jar)
            .args(["-w", "\n%{http_code} %{redirect_url}"])
            .args(arguments)
            .arg(url)
            .output()
            .unwrap();
        assert!(output.status.success(), "{url}: {}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).unwrap();
        let (body, last) = text.rsplit_once('\n').unwrap();
        let (status, location) = last.split_once(' ').unwrap();
        Answer {
            status: status.parse().unwrap(),
            location: location.to_owned(),
            body: body.to_owned(),
        }
    }

    /// Follows a link session from its address to the product's page, choosing an account at the
    /// Sandbox on the way.
    #[track_caller]
    pub(crate) fn link(&self, url: &str, account: &str) -> Answer {
        let to_sandbox = self.get(url);
        assert_eq!(to_sandbox.status, 303, "{to_sandbox:?}");
        assert!(self.get(&to_sandbox.location).body.contains("<form"));
        let chosen = self.post(&to_sandbox.location, &format!("account={account}"));
        let returned = self.get(&chosen.location);
        assert!(returned.location.contains("completion_code="), "{returned:?}");
        self.get(&returned.location)
    }
}
