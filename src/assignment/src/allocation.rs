//! Allocations: which variation owns which part of the line.
//!
//! The line is the 2^64 points that units are hashed to. An [`Allocation`] divides it into buckets. A bucket is a range
//! of points with one owner: control or a variation. Every point has exactly one owner (I1).
//!
//! At the start each variation gets a foothold, its initial share. The footholds are spread over the line, and between
//! them are gaps: buckets of control. A variation grows by moving the end of its bucket into the gap behind it. When
//! that gap is used up, it gets another bucket in the middle of the largest gap that is left:
//!
//! ```text
//! point      0              2^63            2^64
//!            |                |               |
//! start      a a . . . . . .  b b . . . . . .    footholds of a and b, gaps of control
//! a grows    a a a a a . . .  b b . . . . . .    a's bucket extends into the gap behind it
//! a grows    a a a a a a a a  b b . . . . . .    the gap is used up
//! a grows    a a a a a a a a  b b . . . a a .    another bucket, in the middle of the largest gap
//! b grows    a a a a a a a a  b b b b b a a .
//! ```
//!
//! Only control gives up points, and [`Allocation::grow`] is the only function that moves a boundary (I2). So a unit
//! that got `a` keeps it for as long as the run lasts, and no record of it is needed. Control keeps at least the floor,
//! a share that no growth can take.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::line::{Point, Width};

/// The index of a variation in its experiment, in the order of the definition; 0 is control.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub struct Arm(u8);

impl Arm {
    /// The baseline variation, the only one that ever gives up points.
    pub const CONTROL: Self = Self(0);
    /// The largest number of variations besides control.
    pub const MAX_TREATED: usize = 64;

    /// Creates an arm from its index; `None` if the index is over 64.
    pub fn new(index: usize) -> Option<Self> {
        if index <= Self::MAX_TREATED { u8::try_from(index).ok().map(Self) } else { None }
    }

    /// The index: 0 for control.
    pub const fn index(self) -> usize {
        self.0 as usize
    }

    /// Whether this is control.
    pub const fn is_control(self) -> bool {
        self.0 == 0
    }
}

impl TryFrom<u8> for Arm {
    type Error = &'static str;
    fn try_from(index: u8) -> Result<Self, &'static str> {
        Self::new(usize::from(index)).ok_or("an arm must be 0 for control, or 1 to 64")
    }
}

impl From<Arm> for u8 {
    fn from(arm: Arm) -> Self {
        arm.0
    }
}

/// A range of points with one owner. It ends where the next bucket starts, or at the end of the line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bucket {
    /// The first point.
    pub start: Point,
    /// The variation that owns it.
    pub owner: Arm,
}

/// A share as a percentage with at most three significant digits.
pub(crate) fn percent(share: f64) -> String {
    let percent = share * 100.0;
    match percent {
        100.0.. => format!("{percent:.0}%"),
        10.0.. => format!("{percent:.1}%"),
        _ => format!("{percent:.2}%"),
    }
}

/// Why an allocation was rejected.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum AllocationError {
    /// The list of buckets is empty, or the first one does not start at the first point.
    #[error("the first bucket does not start at point 0000000000000000: add a bucket that does")]
    MissingFirstBucket,
    /// The starts of the buckets do not ascend strictly.
    #[error("the bucket at {0} does not start after the previous one: sort the buckets by start, each start once")]
    StartsNotAscending(Point),
    /// There are too many buckets.
    #[error("the allocation has {0} buckets, but the limit is {max}: conclude or restart the experiment", max = Allocation::MAX_BUCKETS)]
    TooManyBuckets(usize),
    /// Control would fall below its floor.
    #[error(
        "the request needs {} of traffic, but control can give up only {} above its minimum share: request less, or restart the experiment",
        percent(*requested),
        percent(*available)
    )]
    NotEnoughControl {
        /// The requested share of the line, 0 to 1.
        requested: f64,
        /// The share of the line that control can still give up, 0 to 1.
        available: f64,
    },
    /// Control was asked to grow, but a variation never gives points back.
    #[error("control cannot grow: choose a variation, which grows into control")]
    ControlCannotGrow,
}

/// The number of points by which shares may exceed the available width. Decimal shares are not exact as doubles: ten times
/// the double next to 0.1 is over 1. The excess, below 10^-14 of the line, is taken from the widest share.
pub(crate) const ROUNDING: u128 = 1 << 16;

/// The owner of every point of the line, as an ordered list of buckets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<Bucket>", into = "Vec<Bucket>")]
pub struct Allocation {
    /// The starts of the buckets: ascending, the first is 0. They are stored apart from the owners, so that a search
    /// reads consecutive memory.
    starts: Box<[u64]>,
    /// The owner of each bucket. Adjacent buckets have different owners.
    owners: Box<[Arm]>,
}

/// A bucket while it is being computed. `end` is the point after the last, which may be 2^64.
#[derive(Clone, Copy)]
struct Segment {
    start: u128,
    end: u128,
    owner: Arm,
}

impl Allocation {
    /// The largest number of buckets. Growth creates few buckets, so only an error reaches this limit.
    pub const MAX_BUCKETS: usize = 4096;

    /// An allocation where control owns the whole line.
    pub fn all_control() -> Self {
        Self { starts: Box::new([0]), owners: Box::new([Arm::CONTROL]) }
    }

    /// Creates an allocation from buckets in the order of the line. Adjacent buckets with the same owner are merged.
    pub fn new(buckets: impl IntoIterator<Item = Bucket>) -> Result<Self, AllocationError> {
        let buckets = buckets.into_iter();
        // Adjacent buckets are rarely merged, so this capacity is usually exact.
        let capacity = buckets.size_hint().0.min(Self::MAX_BUCKETS);
        let (mut starts, mut owners): (Vec<u64>, Vec<Arm>) =
            (Vec::with_capacity(capacity), Vec::with_capacity(capacity));
        let mut last: Option<Point> = None;
        for bucket in buckets {
            match last {
                None if bucket.start != Point::FIRST => return Err(AllocationError::MissingFirstBucket),
                Some(last) if bucket.start <= last => return Err(AllocationError::StartsNotAscending(bucket.start)),
                _ => last = Some(bucket.start),
            }
            if owners.last() != Some(&bucket.owner) {
                starts.push(bucket.start.get());
                owners.push(bucket.owner);
            }
        }
        if starts.is_empty() {
            return Err(AllocationError::MissingFirstBucket);
        }
        if starts.len() > Self::MAX_BUCKETS {
            return Err(AllocationError::TooManyBuckets(starts.len()));
        }
        Ok(Self { starts: starts.into(), owners: owners.into() })
    }

    /// The first allocation of a generation. Each variation gets its foothold: `footholds[i]` belongs to arm `i + 1`.
    /// Control gets the rest, at least `floor`, divided evenly into a gap behind each foothold.
    ///
    /// # Errors
    /// [`AllocationError::NotEnoughControl`] if the footholds leave control less than `floor`.
    pub fn with_footholds(footholds: &[Width], floor: Width) -> Result<Self, AllocationError> {
        let requested: u128 = footholds.iter().map(|w| w.get()).sum();
        let available = Width::LINE.saturating_sub(floor);
        if requested > available.get() {
            return Err(not_enough_control(requested, available));
        }
        let control = Width::LINE.get() - requested;
        let gaps = footholds.iter().filter(|w| **w > Width::ZERO).count().max(1) as u128;
        let mut segments = Vec::with_capacity(2 * footholds.len() + 1);
        let (mut start, mut gap) = (0u128, 0u128);
        for (i, width) in footholds.iter().enumerate() {
            let Some(owner) = Arm::new(i + 1) else { return Err(AllocationError::TooManyBuckets(i + 1)) };
            if *width == Width::ZERO {
                continue;
            }
            segments.push(Segment { start, end: start + width.get(), owner });
            start += width.get();
            // The first `control % gaps` gaps are one point wider, so that the widths add up exactly.
            let points = control / gaps + u128::from(gap < control % gaps);
            gap += 1;
            segments.push(Segment { start, end: start + points, owner: Arm::CONTROL });
            start += points;
        }
        if start < Width::LINE.get() {
            segments.push(Segment { start, end: Width::LINE.get(), owner: Arm::CONTROL });
        }
        Self::from_segments(&segments)
    }

    /// The owner of a point.
    #[inline]
    pub fn owner(&self, point: Point) -> Arm {
        let point = point.get();
        // Most allocations have few buckets. For them counting is faster than a binary search, because it has no branch
        // to mispredict.
        let started = if self.starts.len() <= 16 {
            self.starts.iter().map(|start| usize::from(*start <= point)).sum::<usize>()
        } else {
            self.starts.partition_point(|start| *start <= point)
        };
        // The first start is 0, so at least one bucket starts at or before any point.
        self.owners.get(started.wrapping_sub(1)).copied().unwrap_or(Arm::CONTROL)
    }

    /// The buckets in the order of the line.
    pub fn buckets(&self) -> impl ExactSizeIterator<Item = Bucket> + '_ {
        self.starts.iter().zip(self.owners.iter()).map(|(s, o)| Bucket { start: Point::new(*s), owner: *o })
    }

    /// The ranges that an arm owns: the first and the last point of each bucket, in the order of the line.
    pub fn ranges_of(&self, arm: Arm) -> impl Iterator<Item = (Point, Point)> + '_ {
        (0..self.starts.len()).filter(move |i| self.owners[*i] == arm).map(|i| {
            let last = self.starts.get(i + 1).map_or(u64::MAX, |next| next - 1);
            (Point::new(self.starts[i]), Point::new(last))
        })
    }

    /// The number of points that an arm owns.
    pub fn width_of(&self, arm: Arm) -> Width {
        let points = self.ranges_of(arm).map(|(a, b)| u128::from(b.get()) - u128::from(a.get()) + 1).sum();
        Width::between(0, points)
    }

    /// The arm with the highest index that owns a point.
    pub fn highest_arm(&self) -> Arm {
        self.owners.iter().copied().max().unwrap_or(Arm::CONTROL)
    }

    /// Grows variations into control by exactly the requested widths. Control keeps at least `floor` (I2).
    ///
    /// The variations grow one after another, in the order of `requests`. First a variation extends its own buckets
    /// into the gaps of control behind them. Then it takes from the largest gap that is left, the first of equal gaps:
    /// from the gap's end if its own bucket follows there, otherwise from the gap's middle, so that both it and the
    /// bucket before the gap can still extend. Where it grows depends on the buckets alone, never on the units, so the
    /// probability of every assignment stays known (docs/statistics.md: a unit first exposed in reporting interval e
    /// gets variation k with probability exactly q_k).
    ///
    /// # Errors
    /// [`AllocationError::NotEnoughControl`] if control would fall below `floor`, and
    /// [`AllocationError::ControlCannotGrow`] if a request is for control.
    pub fn grow(&self, requests: &[(Arm, Width)], floor: Width) -> Result<Self, AllocationError> {
        let requested: u128 = requests.iter().map(|(_, width)| width.get()).sum();
        let available = self.headroom(floor);
        if requested > available.get() {
            return Err(not_enough_control(requested, available));
        }
        let mut line: Vec<Segment> = self.segments().collect();
        for (arm, width) in requests {
            if arm.is_control() && *width > Width::ZERO {
                return Err(AllocationError::ControlCannotGrow);
            }
            let missing = extend_own_buckets(&mut line, *arm, width.get());
            take_from_largest_gaps(&mut line, *arm, missing);
        }
        Self::from_segments(&line)
    }

    /// The number of points that control can still give up before it reaches `floor`.
    pub fn headroom(&self, floor: Width) -> Width {
        self.width_of(Arm::CONTROL).saturating_sub(floor)
    }

    /// A width to grow by, reduced to the headroom if it exceeds that only by the rounding of decimal shares: 0.8 and 0.2
    /// as doubles add up to slightly more than 1.
    pub fn round_to_headroom(&self, width: Width, floor: Width) -> Width {
        let available = self.headroom(floor);
        if width.saturating_sub(available).get() <= ROUNDING { width.min(available) } else { width }
    }

    /// Whether this allocation can grow into `later`: every point that a variation owns here, it also owns there (I2).
    pub fn can_grow_into(&self, later: &Self) -> bool {
        self.overlay(later).all(|(_, before, after)| before.is_control() || before == after)
    }

    /// The ranges whose owner differs between this allocation and `later`: first point, last point and owner in
    /// `later`, in the order of the line.
    pub fn changed_ranges(&self, later: &Self) -> Vec<(Point, Point, Arm)> {
        let changed = self.overlay(later).filter(|(_, before, after)| before != after);
        changed.map(|((first, last), _, owner)| (first, last, owner)).collect()
    }

    /// The line divided at the boundaries of both allocations: first and last point, owner here, owner in `other`.
    fn overlay(&self, other: &Self) -> impl Iterator<Item = ((Point, Point), Arm, Arm)> {
        let (mut ours, mut theirs) = (self.segments(), other.segments());
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

    fn segments(&self) -> impl Iterator<Item = Segment> + '_ {
        let ends = self.starts.iter().skip(1).map(|s| u128::from(*s)).chain([Width::LINE.get()]);
        let buckets = self.starts.iter().zip(self.owners.iter());
        buckets.zip(ends).map(|((s, o), end)| Segment { start: u128::from(*s), end, owner: *o })
    }

    fn from_segments(line: &[Segment]) -> Result<Self, AllocationError> {
        let non_empty = line.iter().filter(|s| s.start < s.end);
        Self::new(non_empty.map(|s| Bucket { start: Point::new(s.start as u64), owner: s.owner }))
    }
}

fn not_enough_control(requested: u128, available: Width) -> AllocationError {
    let requested = requested as f64 / Width::LINE.get() as f64;
    AllocationError::NotEnoughControl { requested, available: available.share() }
}

/// Extends the arm's own buckets into the gaps behind them. Returns the number of points still missing.
fn extend_own_buckets(line: &mut [Segment], arm: Arm, mut missing: u128) -> u128 {
    for i in 1..line.len() {
        if missing > 0 && line[i - 1].owner == arm && line[i].owner.is_control() {
            let taken = missing.min(line[i].end - line[i].start);
            line[i - 1].end += taken;
            line[i].start += taken;
            missing -= taken;
        }
    }
    missing
}

/// Takes the missing points from the largest gap of control, then from the next largest, until none is missing.
fn take_from_largest_gaps(line: &mut Vec<Segment>, arm: Arm, mut missing: u128) {
    while missing > 0 {
        let gaps = line.iter().enumerate().filter(|(_, s)| s.owner.is_control());
        let Some((i, gap)) = gaps.max_by_key(|(i, s)| (s.end - s.start, std::cmp::Reverse(*i))).map(|(i, s)| (i, *s))
        else {
            return;
        };
        let width = gap.end - gap.start;
        if width == 0 {
            return;
        }
        let taken = missing.min(width);
        missing -= taken;
        if line.get(i + 1).is_some_and(|next| next.owner == arm) {
            line[i].end -= taken;
            line[i + 1].start -= taken;
            continue;
        }
        let start = (gap.start + width / 2).min(gap.end - taken);
        let rest = Segment { start: start + taken, end: gap.end, owner: Arm::CONTROL };
        line[i].end = start;
        line.splice(i + 1..i + 1, [Segment { start, end: start + taken, owner: arm }, rest]);
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
