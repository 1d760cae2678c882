use std::{sync::Arc, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};

use crate::{
    Error,
    ids::ProviderId,
    ports::{Clock, DeathCount, DeathCursor, DeathPage, Forecast},
};

/// Where the steps of a forecast end, from now on.
const STEPS: [Duration; 9] = [
    Duration::from_hours(1),
    Duration::from_hours(6),
    Duration::from_hours(24),
    Duration::from_hours(3 * 24),
    Duration::from_hours(7 * 24),
    Duration::from_hours(14 * 24),
    Duration::from_hours(30 * 24),
    Duration::from_hours(90 * 24),
    Duration::from_hours(180 * 24),
];

/// Tells which identities will have no token that works.
pub struct Forecasts {
    /// Knows when they die.
    pub forecast: Arc<dyn Forecast>,
    /// Now.
    pub clock: Arc<dyn Clock>,
}

/// What is asked of a forecast.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ForecastRequest {
    /// At this provider instance alone.
    pub provider: Option<ProviderId>,
    /// From now on this long.
    pub within: Duration,
    /// Where the list goes on.
    pub after: Option<DeathCursor>,
    /// Most items of the list.
    pub limit: u16,
}

/// Which identities die when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForecastAnswer {
    /// Now.
    pub at: DateTime<Utc>,
    /// The end of what was looked at.
    pub until: DateTime<Utc>,
    /// How many die in each step of the time, by provider instance and reason; only with the first
    /// part of the list.
    pub steps: Vec<ForecastStep>,
    /// Which, the next to die first.
    pub deaths: DeathPage,
}

/// How many die in one step of a forecast's time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ForecastStep {
    /// After this; `None` for those that have no token that works already.
    pub from: Option<DateTime<Utc>>,
    /// Up to this.
    pub to: DateTime<Utc>,
    /// How many, where and why.
    pub count: DeathCount,
}

impl Forecasts {
    /// Which identities die from now on within a time, and which have died already and do not
    /// know it.
    ///
    /// # Errors
    ///
    /// [`Error::Repository`].
    pub async fn look(&self, request: &ForecastRequest) -> Result<ForecastAnswer, Error> {
        let ForecastRequest { provider, within, after, limit } = *request;
        let at = self.clock.now();
        let later = |it: Duration| {
            let it = TimeDelta::from_std(it).ok().and_then(|it| at.checked_add_signed(it));
            it.unwrap_or(DateTime::<Utc>::MAX_UTC)
        };
        let until = later(within);
        let mut steps = Vec::new();
        if after.is_none() {
            let mut from = None;
            let ends = STEPS.iter().filter(|it| **it < within).map(|it| later(*it));
            for to in [at].into_iter().chain(ends).chain([until]) {
                let counts = self.forecast.count_deaths(provider, from, to).await?;
                steps.extend(counts.into_iter().map(|count| ForecastStep { from, to, count }));
                from = Some(to);
            }
        }
        let deaths = self.forecast.list_deaths(provider, until, after, limit).await?;
        Ok(ForecastAnswer { at, until, steps, deaths })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        ports::{DeathReason, MockForecast},
        testing::{TestClock, fixtures},
    };

    #[tokio::test]
    async fn a_forecast_counts_every_moment_up_to_its_end_once() {
        let mut forecast = MockForecast::new();
        forecast.expect_count_deaths().returning(|_, from, to| {
            assert!(from.is_none_or(|it| it < to), "{from:?} {to}");
            let reason = DeathReason::NoRefreshToken;
            Ok(vec![DeathCount { provider_id: fixtures::PROVIDER, reason, count: 1 }])
        });
        forecast
            .expect_list_deaths()
            .returning(|_, _, _, _| Ok(DeathPage { items: Vec::new(), next: None }));
        let forecasts =
            Forecasts { forecast: Arc::new(forecast), clock: Arc::new(TestClock::default()) };
        let hours = |it: u64| Duration::from_hours(it);
        for (within, steps) in [(hours(1), 2), (hours(24), 4), (hours(24 * 365), 11)] {
            let request = ForecastRequest { provider: None, within, after: None, limit: 10 };
            let answer = forecasts.look(&request).await.unwrap();
            assert_eq!(answer.steps.len(), steps, "{within:?}");
            assert_eq!(answer.steps[0].from, None);
            assert_eq!(answer.steps[0].to, answer.at);
            assert_eq!(answer.steps[steps - 1].to, answer.until);
            let joined = answer.steps.windows(2).all(|it| it[1].from == Some(it[0].to));
            assert!(joined, "{:?}", answer.steps);
            // The rest of the list does not count again.
            let after = DeathCursor { dies_at: answer.at, identity_id: fixtures::IDENTITY };
            let request = ForecastRequest { after: Some(after), ..request };
            assert_eq!(forecasts.look(&request).await.unwrap().steps, []);
        }
    }
}
