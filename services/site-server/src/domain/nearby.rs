//! Which servers are near a client: those of the secondary site whose boundary it calls from, before
//! the site's own.

use std::net::IpAddr;

use ipnet::IpNet;
use muster_proto::client::Locations;

/// Where clients find their servers, by where they are.
#[derive(Debug)]
pub(crate) struct Nearby {
    own: Locations,
    places: Vec<(Vec<IpNet>, Locations)>,
}

/// In the boundary of a secondary site, or in none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(crate) struct Place(Option<usize>);

impl Nearby {
    /// The site's own servers, and for each secondary site its boundary and its servers.
    pub(crate) fn new(own: Locations, secondary: Vec<(Vec<IpNet>, Locations)>) -> Self {
        let places = secondary.into_iter();
        let places = places.map(|(subnets, near)| (subnets, before(near, &own)));
        Self {
            places: places.collect(),
            own,
        }
    }

    /// Of two boundaries that an address is in, the longer prefix counts; of two that are equal,
    /// the first.
    pub(crate) fn place(&self, address: Option<IpAddr>) -> Place {
        let Some(address) = address.map(|address| address.to_canonical()) else {
            return Place::default();
        };
        let mut best: Option<(u8, usize)> = None;
        for (at, (subnets, _)) in self.places.iter().enumerate() {
            for subnet in subnets.iter().filter(|subnet| subnet.contains(&address)) {
                if best.is_none_or(|(longest, _)| subnet.prefix_len() > longest) {
                    best = Some((subnet.prefix_len(), at));
                }
            }
        }
        Place(best.map(|(_, at)| at))
    }

    /// In order of preference.
    pub(crate) fn locations(&self, place: Place) -> &Locations {
        let near = place.0.and_then(|at| self.places.get(at));
        near.map_or(&self.own, |(_, locations)| locations)
    }
}

fn before(mut near: Locations, own: &Locations) -> Locations {
    for (near, own) in [
        (&mut near.management_points, &own.management_points),
        (
            &mut near.software_update_points,
            &own.software_update_points,
        ),
        (&mut near.distribution_points, &own.distribution_points),
    ] {
        let others = own.iter().filter(|url| !near.contains(url));
        let others: Vec<String> = others.cloned().collect();
        near.extend(others);
    }
    near
}

#[cfg(test)]
mod tests {
    use super::*;

    fn servers(of: &str) -> Locations {
        Locations {
            management_points: vec![format!("https://mp.{of}")],
            software_update_points: Vec::new(),
            distribution_points: vec![format!("https://dp.{of}"), "https://dp.shared".into()],
        }
    }

    fn nearby() -> Nearby {
        let nets = |nets: &[&str]| nets.iter().map(|net| net.parse().unwrap()).collect();
        let own = Locations {
            software_update_points: vec!["https://sup.own".into()],
            ..servers("own")
        };
        Nearby::new(
            own,
            vec![
                (nets(&["10.20.0.0/16", "fd12::/32"]), servers("lyon")),
                (nets(&["10.20.30.0/24"]), servers("desk")),
            ],
        )
    }

    fn first(address: Option<&str>) -> String {
        let nearby = nearby();
        let place = nearby.place(address.map(|address| address.parse().unwrap()));
        nearby.locations(place).management_points[0].clone()
    }

    #[test]
    fn the_longest_boundary_that_a_client_is_in_says_which_servers_are_near() {
        assert_eq!(first(Some("10.20.1.1")), "https://mp.lyon");
        assert_eq!(first(Some("10.20.30.1")), "https://mp.desk");
        assert_eq!(first(Some("fd12::7")), "https://mp.lyon");
        assert_eq!(first(Some("10.21.0.1")), "https://mp.own");
        assert_eq!(first(None), "https://mp.own");
    }

    #[test]
    fn an_ipv4_address_in_ipv6_clothes_is_the_same_address() {
        assert_eq!(first(Some("::ffff:10.20.1.1")), "https://mp.lyon");
    }

    #[test]
    fn the_sites_own_servers_come_after_those_nearby_each_once() {
        let nearby = nearby();
        let place = nearby.place(Some("10.20.1.1".parse().unwrap()));
        let found = nearby.locations(place);
        assert_eq!(
            found.management_points,
            ["https://mp.lyon", "https://mp.own"]
        );
        assert_eq!(found.software_update_points, ["https://sup.own"]);
        assert_eq!(
            found.distribution_points,
            ["https://dp.lyon", "https://dp.shared", "https://dp.own"]
        );
    }
}
