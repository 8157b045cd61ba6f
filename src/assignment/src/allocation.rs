//! Who owns which stretch of the line. An [`Allocation`] cannot be built unless every point has exactly one owner (I1),
//! and [`Allocation::grow`] is the only way to get another one out of it: it takes points from control and from nobody
//! else (I2).

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::line::{Point, Width};

/// Which variation of its experiment, in the order of the definition; 0 is always control.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub struct Arm(u8);

impl Arm {
    /// The baseline variation, the only one that ever gives up points.
    pub const CONTROL: Self = Self(0);
    /// How many variations an experiment can have beside control.
    pub const MAX_TREATED: usize = 64;

    /// The arm with this index; `None` beyond control and 64 variations.
    pub fn new(index: usize) -> Option<Self> {
        if index <= Self::MAX_TREATED { u8::try_from(index).ok().map(Self) } else { None }
    }

    /// Its index: 0 for control.
    pub const fn index(self) -> usize {
        self.0 as usize
    }

    /// Whether this is the baseline.
    pub const fn is_control(self) -> bool {
        self.0 == 0
    }
}

impl TryFrom<u8> for Arm {
    type Error = &'static str;
    fn try_from(index: u8) -> Result<Self, &'static str> {
        Self::new(usize::from(index)).ok_or("an arm is 0 for control, or 1 to 64")
    }
}

impl From<Arm> for u8 {
    fn from(arm: Arm) -> Self {
        arm.0
    }
}

/// A stretch of the line with one owner, running to the next bucket's start or to the end of the line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bucket {
    /// Its first point.
    pub start: Point,
    /// Who owns it.
    pub owner: Arm,
}

/// Why an allocation was refused.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum AllocationError {
    /// The first bucket must start at the first point, and there must be one.
    #[error("an allocation must start at point 0000000000000000")]
    FirstStart,
    /// Starts must rise strictly.
    #[error("bucket starts must rise: {0} does not come after the one before it")]
    Unordered(Point),
    /// Too many pieces.
    #[error("an allocation may have at most {max} buckets, not {0}: conclude or restart the experiment", max = Allocation::MAX_BUCKETS)]
    TooManyBuckets(usize),
    /// More was asked of control than it can give.
    #[error(
        "control can give up {available:.6} of the line before its floor, and {requested:.6} was asked for: ask for less, or restart the experiment"
    )]
    PastTheFloor {
        /// What was asked for, as a share of the line.
        requested: f64,
        /// What control could give, as a share of the line.
        available: f64,
    },
    /// Control cannot grow: nobody gives points back.
    #[error("control cannot grow: only variations grow, into control")]
    ControlCannotGrow,
}

/// Every point of the line with its owner, as an ordered list of buckets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<Bucket>", into = "Vec<Bucket>")]
pub struct Allocation {
    /// Sorted; the first is 0; no neighbour has the same owner. Apart from owners, so that the search is dense.
    starts: Box<[u64]>,
    owners: Box<[Arm]>,
}

/// A stretch while growing: first point and the place after the last, which may be 2^64.
#[derive(Clone, Copy)]
struct Stretch {
    start: u128,
    end: u128,
    owner: Arm,
}

impl Allocation {
    /// How many buckets an allocation may have: growth makes few, so this is only ever met by a mistake.
    pub const MAX_BUCKETS: usize = 4096;

    /// Everything belongs to control.
    pub fn all_control() -> Self {
        Self { starts: Box::new([0]), owners: Box::new([Arm::CONTROL]) }
    }

    /// Checks a list of buckets. Neighbours with one owner are joined.
    pub fn new(buckets: impl IntoIterator<Item = Bucket>) -> Result<Self, AllocationError> {
        let buckets = buckets.into_iter();
        // Neighbours are seldom joined, so that this is mostly all the room there will be.
        let room = buckets.size_hint().0.min(Self::MAX_BUCKETS);
        let (mut starts, mut owners): (Vec<u64>, Vec<Arm>) = (Vec::with_capacity(room), Vec::with_capacity(room));
        let mut last: Option<Point> = None;
        for bucket in buckets {
            match last {
                None if bucket.start != Point::FIRST => return Err(AllocationError::FirstStart),
                Some(last) if bucket.start <= last => return Err(AllocationError::Unordered(bucket.start)),
                _ => last = Some(bucket.start),
            }
            if owners.last() != Some(&bucket.owner) {
                starts.push(bucket.start.get());
                owners.push(bucket.owner);
            }
        }
        if starts.is_empty() {
            return Err(AllocationError::FirstStart);
        }
        if starts.len() > Self::MAX_BUCKETS {
            return Err(AllocationError::TooManyBuckets(starts.len()));
        }
        Ok(Self { starts: starts.into(), owners: owners.into() })
    }

    /// The first allocation of a generation: each variation gets its foothold, with control between the footholds so
    /// that growing is moving a boundary. `footholds[i]` belongs to arm `i + 1`; what is left after all of them, at
    /// least `floor`, is control's and is spread evenly behind them.
    pub fn with_footholds(footholds: &[Width], floor: Width) -> Result<Self, AllocationError> {
        let taken: u128 = footholds.iter().map(|w| w.get()).sum();
        let available = Width::LINE.saturating_sub(floor);
        if taken > available.get() {
            return Err(past_the_floor(taken, available));
        }
        let control = Width::LINE.get() - taken;
        let gaps = footholds.iter().filter(|w| **w > Width::ZERO).count().max(1) as u128;
        let mut stretches = Vec::with_capacity(2 * footholds.len() + 1);
        let (mut at, mut gap) = (0u128, 0u128);
        for (i, width) in footholds.iter().enumerate() {
            let Some(owner) = Arm::new(i + 1) else { return Err(AllocationError::TooManyBuckets(i + 1)) };
            if *width == Width::ZERO {
                continue;
            }
            stretches.push(Stretch { start: at, end: at + width.get(), owner });
            at += width.get();
            // The first `control % gaps` gaps are one point wider, so that the widths add up exactly.
            let room = control / gaps + u128::from(gap < control % gaps);
            gap += 1;
            stretches.push(Stretch { start: at, end: at + room, owner: Arm::CONTROL });
            at += room;
        }
        if at < Width::LINE.get() {
            stretches.push(Stretch { start: at, end: Width::LINE.get(), owner: Arm::CONTROL });
        }
        Self::from_stretches(&stretches)
    }

    /// Who owns a point.
    #[inline]
    pub fn owner(&self, point: Point) -> Arm {
        let point = point.get();
        // A linear count has no branch to mispredict and beats a binary search on the few buckets that are usual.
        let after = if self.starts.len() <= 16 {
            self.starts.iter().map(|start| usize::from(*start <= point)).sum::<usize>()
        } else {
            self.starts.partition_point(|start| *start <= point)
        };
        // The first start is 0, so at least one bucket starts at or before any point.
        self.owners.get(after.wrapping_sub(1)).copied().unwrap_or(Arm::CONTROL)
    }

    /// The buckets in the order of the line.
    pub fn buckets(&self) -> impl ExactSizeIterator<Item = Bucket> + '_ {
        self.starts.iter().zip(self.owners.iter()).map(|(s, o)| Bucket { start: Point::new(*s), owner: *o })
    }

    /// The stretches that an arm owns: first and last point of each.
    pub fn stretches_of(&self, arm: Arm) -> impl Iterator<Item = (Point, Point)> + '_ {
        (0..self.starts.len()).filter(move |i| self.owners[*i] == arm).map(|i| {
            let last = self.starts.get(i + 1).map_or(u64::MAX, |next| next - 1);
            (Point::new(self.starts[i]), Point::new(last))
        })
    }

    /// How many points an arm owns.
    pub fn width_of(&self, arm: Arm) -> Width {
        let points = self.stretches_of(arm).map(|(a, b)| u128::from(b.get()) - u128::from(a.get()) + 1).sum();
        Width::between(0, points)
    }

    /// The highest arm that owns a point.
    pub fn highest_arm(&self) -> Arm {
        self.owners.iter().copied().max().unwrap_or(Arm::CONTROL)
    }

    /// Grows variations into control, by the widths asked for, leaving control at least `floor` (I2).
    ///
    /// Each variation in turn, in the order given: its own buckets run on into the control that follows them; when
    /// that is gone it takes from the largest control gap left (the first of equals), at the end of the gap where it
    /// is already the neighbour there, and otherwise from the gap's middle, so that both it and the gap's neighbours
    /// keep room to run on. Location depends on the geometry alone, never on who lives there, which is what keeps
    /// propensities known (STATISTICS: first exposure in epoch e is served k with probability exactly q_k).
    ///
    /// # Errors
    /// [`AllocationError::PastTheFloor`] when control cannot give so much; then nothing has changed.
    pub fn grow(&self, requests: &[(Arm, Width)], floor: Width) -> Result<Self, AllocationError> {
        let requested: u128 = requests.iter().map(|(_, width)| width.get()).sum();
        let available = self.headroom(floor);
        if requested > available.get() {
            return Err(past_the_floor(requested, available));
        }
        let mut line = self.to_stretches();
        for (arm, width) in requests {
            if arm.is_control() && *width > Width::ZERO {
                return Err(AllocationError::ControlCannotGrow);
            }
            let left = run_on(&mut line, *arm, width.get());
            jump(&mut line, *arm, left);
        }
        Self::from_stretches(&line)
    }

    /// How much control can still give up before it meets `floor`.
    pub fn headroom(&self, floor: Width) -> Width {
        self.width_of(Arm::CONTROL).saturating_sub(floor)
    }

    /// Whether `later` could have grown out of this: every point that a variation owns here it owns there too (I2).
    pub fn may_become(&self, later: &Self) -> bool {
        self.beside(later).all(|(_, mine, theirs)| mine.is_control() || mine == theirs)
    }

    /// The slices that changed hands between this and `later`: first point, last point, new owner, in line order.
    pub fn slices_taken_by(&self, later: &Self) -> Vec<(Point, Point, Arm)> {
        let changed = self.beside(later).filter(|(_, mine, theirs)| mine != theirs);
        changed.map(|((first, last), _, owner)| (first, last, owner)).collect()
    }

    /// The line cut wherever either of two allocations cuts it: first and last point, owner here, owner there.
    fn beside(&self, other: &Self) -> impl Iterator<Item = ((Point, Point), Arm, Arm)> {
        let (mut ours, mut theirs) = (self.stretches(), other.stretches());
        let (mut a, mut b) = (ours.next(), theirs.next());
        std::iter::from_fn(move || {
            let (x, y) = (a?, b?);
            let (start, end) = (x.start.max(y.start), x.end.min(y.end));
            if x.end == end {
                a = ours.next();
            }
            if y.end == end {
                b = theirs.next();
            }
            Some(((Point::new(start as u64), Point::new((end - 1) as u64)), x.owner, y.owner))
        })
    }

    fn to_stretches(&self) -> Vec<Stretch> {
        self.stretches().collect()
    }

    fn stretches(&self) -> impl Iterator<Item = Stretch> + '_ {
        let ends = self.starts.iter().skip(1).map(|s| u128::from(*s)).chain([Width::LINE.get()]);
        let heads = self.starts.iter().zip(self.owners.iter());
        heads.zip(ends).map(|((s, o), end)| Stretch { start: u128::from(*s), end, owner: *o })
    }

    fn from_stretches(line: &[Stretch]) -> Result<Self, AllocationError> {
        let held = line.iter().filter(|s| s.start < s.end);
        Self::new(held.map(|s| Bucket { start: Point::new(s.start as u64), owner: s.owner }))
    }
}

fn past_the_floor(requested: u128, available: Width) -> AllocationError {
    let requested = requested as f64 / Width::LINE.get() as f64;
    AllocationError::PastTheFloor { requested, available: available.share() }
}

/// Lets an arm's own buckets run on into the control behind them; returns what could not be met so.
fn run_on(line: &mut [Stretch], arm: Arm, mut wanted: u128) -> u128 {
    for i in 1..line.len() {
        if wanted > 0 && line[i - 1].owner == arm && line[i].owner.is_control() {
            let taken = wanted.min(line[i].end - line[i].start);
            line[i - 1].end += taken;
            line[i].start += taken;
            wanted -= taken;
        }
    }
    wanted
}

/// Takes what is still wanted from the largest control gap, over and over.
fn jump(line: &mut Vec<Stretch>, arm: Arm, mut wanted: u128) {
    while wanted > 0 {
        let gaps = line.iter().enumerate().filter(|(_, s)| s.owner.is_control());
        let Some((i, gap)) = gaps.max_by_key(|(i, s)| (s.end - s.start, std::cmp::Reverse(*i))).map(|(i, s)| (i, *s))
        else {
            return;
        };
        let width = gap.end - gap.start;
        if width == 0 {
            return;
        }
        let taken = wanted.min(width);
        wanted -= taken;
        if line.get(i + 1).is_some_and(|next| next.owner == arm) {
            line[i].end -= taken;
            line[i + 1].start -= taken;
            continue;
        }
        let start = (gap.start + width / 2).min(gap.end - taken);
        let behind = Stretch { start: start + taken, end: gap.end, owner: Arm::CONTROL };
        line[i].end = start;
        line.splice(i + 1..i + 1, [Stretch { start, end: start + taken, owner: arm }, behind]);
    }
}

impl TryFrom<Vec<Bucket>> for Allocation {
    type Error = AllocationError;
    fn try_from(buckets: Vec<Bucket>) -> Result<Self, AllocationError> {
        Self::new(buckets)
    }
}

impl From<Allocation> for Vec<Bucket> {
    fn from(allocation: Allocation) -> Self {
        allocation.buckets().collect()
    }
}
