// SPDX-License-Identifier: Apache-2.0
//! What of the configuration is in force, read as one: a query looks once, and sees all of it before a
//! reload or all of it after.

use std::sync::Arc;

use arc_swap::Guard;

use super::routes::{Route, Routes};
use super::{Resolver, lock};
use crate::config::{CacheConfig, Limits};
use crate::wire::question::Question;

/// What is in force.
#[derive(Clone, Debug)]
pub(super) struct InForce {
    pub(super) routes: Arc<Routes>,
    pub(super) limits: Arc<Limits>,
    pub(super) settings: Arc<CacheConfig>,
}

impl InForce {
    pub(super) fn new(routes: Routes, limits: Limits, settings: CacheConfig) -> Self {
        Self {
            routes: Arc::new(routes),
            limits: Arc::new(limits),
            settings: Arc::new(settings),
        }
    }

    /// Whether a question still goes this way: a reload may have sent its name elsewhere meanwhile.
    pub(super) fn has(&self, question: &Question, route: &Route) -> bool {
        std::ptr::eq(&**self.routes.of(question.name()), route)
    }
}

impl Resolver {
    /// What is in force now. To be let go of soon.
    pub(super) fn in_force(&self) -> Guard<Arc<InForce>> {
        self.in_force.load()
    }

    /// The zones and servers in force.
    #[must_use]
    pub fn routes(&self) -> Arc<Routes> {
        Arc::clone(&self.in_force().routes)
    }

    /// Puts other zones, limits and settings of the cache in force. What is under way goes on
    /// with its servers; where that takes long, the new limits count.
    pub fn reload(&self, routes: Routes, limits: Limits, settings: CacheConfig) {
        lock(&self.cuts).clear();
        let in_force = InForce::new(routes, limits, settings);
        self.in_force.store(Arc::new(in_force));
        self.look_soon();
    }

    /// Puts other servers in force for some zones; what is known of the others stays.
    pub fn reroute(&self, routes: Routes) {
        lock(&self.cuts).clear();
        self.go_by(routes);
        self.look_soon();
    }

    /// Puts other routes in force.
    pub(super) fn go_by(&self, routes: Routes) {
        let routes = Arc::new(routes);
        self.in_force.rcu(|before| InForce {
            routes: Arc::clone(&routes),
            ..InForce::clone(before)
        });
    }
}
