//! What a write was about: where its slots go, its id goes, too.

use std::borrow::Cow;

use flotilla_shared::ids::{PlacementId, Slot};
use flotilla_shared::registry::SlotSet;
use flotilla_shared::wire::{Claim, Route};
use serde::{Deserialize, Serialize};

/// Ranges of slots that are told apart, of one write. One of many rows has its rows anywhere; its id then goes along
/// with every slot of the shard, which takes less room than to say with which.
const MAX_RANGES: usize = 64;

/// Placements with slots of them. The common cases need no allocation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum Touched {
    /// It ran as written on this shard, whatever that owned.
    Here,
    One(PlacementId, Slot),
    Two(PlacementId, Slot, Slot),
    /// Placements with their slots; `None`: all that the shard owned.
    Many(Box<[(PlacementId, Option<SlotSet>)]>),
}

impl Touched {
    pub fn of(route: Option<&Route>) -> Self {
        let Some(route) = route else { return Self::Here };
        let told = |claim: &Claim| claim.slots.as_ref().filter(|slots| slots.ranges().len() <= MAX_RANGES).cloned();
        let list: Vec<_> = route.claims.iter().map(|claim| (claim.placement, told(claim))).collect();
        Self::from(list)
    }

    fn list(&self) -> Cow<'_, [(PlacementId, Option<SlotSet>)]> {
        match self {
            Self::Here => Cow::Borrowed(&[]),
            Self::One(of, slot) => Cow::Owned(vec![(*of, Some(SlotSet::range(*slot, *slot)))]),
            Self::Two(of, one, two) => Cow::Owned(vec![(*of, Some([*one, *two].into_iter().collect()))]),
            Self::Many(list) => Cow::Borrowed(list),
        }
    }

    /// What of it these slots are; `None` for nothing.
    pub fn within(&self, placement: PlacementId, slots: &SlotSet) -> Option<Self> {
        match self {
            Self::Here => None,
            Self::One(of, slot) => (*of == placement && slots.contains(*slot)).then(|| self.clone()),
            Self::Two(..) | Self::Many(_) => {
                let list = self.list();
                let of_it = list.iter().filter(|(of, _)| *of == placement);
                let touched =
                    of_it.map(|(_, touched)| touched.as_ref().map_or(slots.clone(), |set| set.intersection(slots)));
                let touched = touched.reduce(|one, other| one.union(&other)).filter(|touched| !touched.is_empty())?;
                Some(Self::from(vec![(placement, Some(touched))]))
            }
        }
    }

    /// Is all of the other one part of it?
    pub fn covers(&self, other: &Self) -> bool {
        let ours = self.list();
        other.list().iter().all(|(placement, slots)| {
            ours.iter().any(|(of, touched)| {
                of == placement
                    && touched
                        .as_ref()
                        .is_none_or(|touched| slots.as_ref().is_some_and(|slots| slots.is_within(touched)))
            })
        })
    }

    /// What either of them is about.
    pub fn union(&self, other: &Self) -> Self {
        let mut list = self.list().into_owned();
        for (placement, slots) in other.list().iter() {
            match (list.iter_mut().find(|(of, _)| of == placement), slots) {
                (None, slots) => list.push((*placement, slots.clone())),
                (Some((_, all)), None) => *all = None,
                (Some((_, Some(touched))), Some(slots)) => *touched = touched.union(slots),
                (Some((_, None)), Some(_)) => (),
            }
        }
        Self::from(list)
    }
}

impl From<Vec<(PlacementId, Option<SlotSet>)>> for Touched {
    fn from(list: Vec<(PlacementId, Option<SlotSet>)>) -> Self {
        let [(placement, Some(slots))] = list.as_slice() else { return Self::Many(list.into()) };
        let first: Vec<Slot> = slots.iter().take(3).collect();
        match first.as_slice() {
            [one] => Self::One(*placement, *one),
            [one, two] => Self::Two(*placement, *one, *two),
            _ => Self::Many(list.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(slots: &[u16]) -> SlotSet {
        slots.iter().copied().map(Slot).collect()
    }

    /// Of a write goes along what is about the slots that go, and parts that meet again make the whole.
    #[test]
    fn parts_make_the_whole() {
        let (one, two) = (PlacementId(1), PlacementId(2));
        let all = Touched::Many(Box::new([(one, Some(set(&[1, 2, 3, 7, 8]))), (two, None)]));
        assert_eq!(all.within(one, &set(&[0, 4])), None);
        assert_eq!(all.within(PlacementId(3), &set(&[1])), None);
        assert_eq!(all.within(one, &set(&[3, 4])), Some(Touched::One(one, Slot(3))));
        assert_eq!(all.within(one, &set(&[3, 4, 8])), Some(Touched::Two(one, Slot(3), Slot(8))));
        assert_eq!(all.within(two, &set(&[5, 6, 9])), Some(Touched::Many(Box::new([(two, Some(set(&[5, 6, 9])))]))));
        assert_eq!(Touched::Here.within(one, &set(&[1])), None);
        let parts = [&[1, 2][..], &[3, 7], &[8]].map(|slots| all.within(one, &set(slots)).unwrap());
        let met = parts.iter().fold(Touched::Here, |met, part| met.union(part));
        assert_eq!(met, Touched::Many(Box::new([(one, Some(set(&[1, 2, 3, 7, 8])))])));
        assert!(parts.iter().all(|part| met.covers(part) && all.covers(part)) && !parts[0].covers(&parts[1]));
        assert!(all.covers(&met) && !met.covers(&all), "all slots are more than some");
        assert_eq!(met.union(&all), all);
        assert!(met.covers(&Touched::Here) && !Touched::Here.covers(&met));
    }
}
