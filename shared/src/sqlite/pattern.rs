//! Regular expressions for [`regexp`](super::regexp): POSIX extended ones, as the `sqlite3` shell has them.
//!
//! ```text
//! X* X+ X? X{p} X{p,} X{p,q}     repetition
//! (X)  X|Y  ^  $  .              group, choice, start and end of the text, any character
//! [abc] [^a-z]                   one of, none of
//! \w \d \s \W \D \S \b           word character, digit, space, their opposites, border of a word (ASCII)
//! \n \t … \xHH \uHHHH \.         escapes
//! ```
//!
//! A pattern becomes a nondeterministic automaton (Thompson, CACM 11(6), 1968), which follows all alternatives at once.
//! So the time is at most that of the pattern's states times the text's characters, and it is bounded. Of Unicode only
//! the code points are used, so a pattern means the same in every build. Where the shell refuses `X{p,}`, or lets `$`
//! consume the end of the text so that not even `X?` may follow, POSIX holds here.

/// Longest pattern, in bytes: its characters are held one by one while it is read.
const MAX_BYTES: usize = 10_000;

/// States of a pattern, repetitions written out: an ordinary one has some dozens.
const MAX_STATES: usize = 2000;

/// Groups within groups, and repetitions of repetitions.
const MAX_DEPTH: usize = 40;

/// States visited by one match: some tenths of a second. Counted, not timed, so that every replica stops at the same
/// state.
const MAX_VISITS: usize = 100_000_000;

/// Why a pattern cannot be used.
pub type Wrong = &'static str;

const TOO_BIG: Wrong = "REGEXP pattern too big";

/// A pattern, ready to be matched.
pub struct Pattern {
    states: Vec<State>,
    fold: bool,
}

#[derive(Clone, Debug)]
enum State {
    One(Set),
    Start,
    End,
    Border,
    /// Goes on at the next state and at another.
    Fork(usize),
    Go(usize),
    Accept,
}

/// Characters.
#[derive(Clone, Debug)]
struct Set {
    ranges: Vec<(char, char)>,
    negated: bool,
}

impl Set {
    fn has(&self, character: char) -> bool {
        self.ranges.iter().any(|(from, to)| (*from..=*to).contains(&character)) != self.negated
    }

    fn of(letter: char) -> Option<Self> {
        let ranges = match letter.to_ascii_lowercase() {
            'w' => vec![('0', '9'), ('A', 'Z'), ('_', '_'), ('a', 'z')],
            'd' => vec![('0', '9')],
            's' => vec![('\t', '\r'), (' ', ' ')],
            _ => return None,
        };
        Some(Self { ranges, negated: letter.is_ascii_uppercase() })
    }
}

enum Node {
    Leaf(State),
    Sequence(Vec<Node>),
    Choice(Vec<Node>),
    Repeat(Box<Node>, usize, Option<usize>),
}

impl Pattern {
    /// Reads a pattern; `fold`: letters of ASCII match in either case.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read(text: &str, fold: bool) -> Result<Self, Wrong> {
        if text.len() > MAX_BYTES {
            return Err(TOO_BIG);
        }
        let characters: Vec<char> = text.chars().map(|c| folded(c, fold)).collect();
        // Escapes are read as written.
        let written: Vec<char> = text.chars().collect();
        let mut reader = Reader { characters, written, at: 0, depth: 0 };
        let node = reader.choice()?;
        if reader.at < reader.characters.len() {
            return Err("unmatched ')'");
        }
        let mut pattern = Self { states: vec![], fold };
        let mut visits = 0;
        pattern.emit(&node, &mut visits)?;
        pattern.states.push(State::Accept);
        Ok(pattern)
    }

    fn push(&mut self, state: State) -> Result<usize, Wrong> {
        if self.states.len() >= MAX_STATES {
            return Err(TOO_BIG);
        }
        self.states.push(state);
        Ok(self.states.len() - 1)
    }

    fn emit(&mut self, node: &Node, visits: &mut usize) -> Result<(), Wrong> {
        *visits += 1;
        // A repetition of nothing makes no state.
        if *visits > 10 * MAX_STATES {
            return Err(TOO_BIG);
        }
        match node {
            Node::Leaf(state) => self.push(state.clone()).map(drop),
            Node::Sequence(list) => list.iter().try_for_each(|node| self.emit(node, visits)),
            Node::Choice(list) => {
                let mut ends = vec![];
                for (n, node) in list.iter().enumerate() {
                    if n + 1 == list.len() {
                        self.emit(node, visits)?;
                        break;
                    }
                    let fork = self.push(State::Fork(0))?;
                    self.emit(node, visits)?;
                    ends.push(self.push(State::Go(0))?);
                    self.states[fork] = State::Fork(self.states.len());
                }
                let end = self.states.len();
                ends.into_iter().for_each(|at| self.states[at] = State::Go(end));
                Ok(())
            }
            Node::Repeat(node, least, most) => {
                (0..*least).try_for_each(|_| self.emit(node, visits))?;
                match most {
                    None => {
                        let fork = self.push(State::Fork(0))?;
                        self.emit(node, visits)?;
                        self.push(State::Go(fork))?;
                        self.states[fork] = State::Fork(self.states.len());
                    }
                    Some(most) => {
                        let mut forks = vec![];
                        for _ in *least..*most {
                            forks.push(self.push(State::Fork(0))?);
                            self.emit(node, visits)?;
                        }
                        let end = self.states.len();
                        forks.into_iter().for_each(|at| self.states[at] = State::Fork(end));
                    }
                }
                Ok(())
            }
        }
    }

    /// Does the pattern match somewhere in the text?
    ///
    /// # Errors
    /// When that takes too many steps.
    pub fn matches(&self, text: &str) -> Result<bool, Wrong> {
        self.matches_within(text, MAX_VISITS)
    }

    fn matches_within(&self, text: &str, max_visits: usize) -> Result<bool, Wrong> {
        let mut run = Run {
            states: &self.states,
            seen: vec![0; self.states.len()],
            round: 0,
            ready: vec![],
            visits_left: max_visits,
        };
        let mut begun: Vec<usize> = vec![];
        let (mut before, mut rest) = (None, text.chars().map(|c| folded(c, self.fold)));
        loop {
            let next = rest.next();
            begun.push(0);
            if run.follow(&mut begun, before, next)? {
                return Ok(true);
            }
            let Some(character) = next else { return Ok(false) };
            for at in run.ready.drain(..) {
                if matches!(&self.states[at], State::One(set) if set.has(character)) {
                    begun.push(at + 1);
                }
            }
            before = next;
        }
    }
}

/// One match under way.
struct Run<'a> {
    states: &'a [State],
    /// The round in which each state was last visited.
    seen: Vec<usize>,
    round: usize,
    /// States that wait for a character.
    ready: Vec<usize>,
    visits_left: usize,
}

impl Run<'_> {
    /// Goes on from these states as far as no character is needed, between two characters. True: the pattern's end is
    /// reached.
    fn follow(&mut self, from: &mut Vec<usize>, before: Option<char>, next: Option<char>) -> Result<bool, Wrong> {
        self.round += 1;
        while let Some(at) = from.pop() {
            if std::mem::replace(&mut self.seen[at], self.round) == self.round {
                continue;
            }
            self.visits_left = self.visits_left.checked_sub(1).ok_or("REGEXP takes too many steps")?;
            let word = |character: Option<char>| character.is_some_and(|c| c.is_ascii_alphanumeric() || c == '_');
            match &self.states[at] {
                State::One(_) => self.ready.push(at),
                State::Fork(other) => from.extend([*other, at + 1]),
                State::Go(other) => from.push(*other),
                State::Start if before.is_none() => from.push(at + 1),
                State::End if next.is_none() => from.push(at + 1),
                State::Border if word(before) != word(next) => from.push(at + 1),
                State::Start | State::End | State::Border => (),
                State::Accept => return Ok(true),
            }
        }
        Ok(false)
    }
}

fn folded(character: char, fold: bool) -> char {
    if fold { character.to_ascii_lowercase() } else { character }
}

/// Reads a pattern's text.
struct Reader {
    characters: Vec<char>,
    written: Vec<char>,
    at: usize,
    depth: usize,
}

impl Reader {
    fn peek(&self) -> Option<char> {
        self.characters.get(self.at).copied()
    }

    fn take(&mut self, wanted: char) -> bool {
        let there = self.peek() == Some(wanted);
        self.at += usize::from(there);
        there
    }

    fn choice(&mut self) -> Result<Node, Wrong> {
        let mut list = vec![self.sequence()?];
        while self.take('|') {
            list.push(self.sequence()?);
        }
        Ok(if list.len() == 1 { list.remove(0) } else { Node::Choice(list) })
    }

    fn sequence(&mut self) -> Result<Node, Wrong> {
        let mut list = vec![];
        while let Some(character) = self.peek().filter(|c| !matches!(c, '|' | ')')) {
            self.at += 1;
            let atom = self.atom(character)?;
            list.push(self.repeated(atom)?);
        }
        Ok(Node::Sequence(list))
    }

    fn atom(&mut self, character: char) -> Result<Node, Wrong> {
        let any = || Set { ranges: vec![], negated: true };
        Ok(Node::Leaf(match character {
            '(' => {
                self.depth += 1;
                if self.depth > MAX_DEPTH {
                    return Err(TOO_BIG);
                }
                let inside = self.choice()?;
                if !self.take(')') {
                    return Err("unmatched '('");
                }
                self.depth -= 1;
                return Ok(inside);
            }
            '*' | '+' | '?' | '{' => return Err("a repetition without operand"),
            '.' => State::One(any()),
            '^' => State::Start,
            '$' => State::End,
            '[' => State::One(self.set()?),
            '\\' if self.written.get(self.at) == Some(&'b') => {
                self.at += 1;
                State::Border
            }
            '\\' => match self.written.get(self.at).copied().and_then(Set::of) {
                Some(set) => {
                    self.at += 1;
                    State::One(set)
                }
                None => State::One(single(self.escape()?)),
            },
            character => State::One(single(character)),
        }))
    }

    fn repeated(&mut self, mut node: Node) -> Result<Node, Wrong> {
        for _ in 0..MAX_DEPTH {
            let (least, most) = match self.peek() {
                Some('*') => (0, None),
                Some('+') => (1, None),
                Some('?') => (0, Some(1)),
                Some('{') => {
                    self.at += 1;
                    let (least, most) = self.counts()?;
                    node = Node::Repeat(Box::new(node), least, most);
                    continue;
                }
                _ => return Ok(node),
            };
            self.at += 1;
            node = Node::Repeat(Box::new(node), least, most);
        }
        Err(TOO_BIG)
    }

    /// `p}`, `p,}` or `p,q}`.
    fn counts(&mut self) -> Result<(usize, Option<usize>), Wrong> {
        let least = self.number()?;
        let most = match self.take(',') {
            true if self.peek() == Some('}') => None,
            true => Some(self.number()?),
            false => Some(least),
        };
        match (self.take('}'), most) {
            (false, _) => Err("unmatched '{'"),
            (true, Some(most)) if most < least => Err("n less than m in '{m,n}'"),
            (true, most) => Ok((least, most)),
        }
    }

    fn number(&mut self) -> Result<usize, Wrong> {
        let mut number = 0;
        while let Some(digit) = self.peek().and_then(|c| c.to_digit(10)) {
            self.at += 1;
            number = number * 10 + digit as usize;
            if number > MAX_STATES {
                return Err(TOO_BIG);
            }
        }
        Ok(number)
    }

    /// The rest of `[…]`.
    fn set(&mut self) -> Result<Set, Wrong> {
        let mut set = Set { negated: self.take('^'), ranges: vec![] };
        loop {
            let from = self.member()?;
            let to = if self.take('-') { self.member()? } else { from };
            set.ranges.push((from, to));
            if self.take(']') {
                return Ok(set);
            }
        }
    }

    fn member(&mut self) -> Result<char, Wrong> {
        let character = self.peek().ok_or("unclosed '['")?;
        self.at += 1;
        match character {
            '[' if self.peek() == Some(':') => Err("POSIX character classes not supported"),
            '\\' => self.escape(),
            character => Ok(character),
        }
    }

    /// The character that a backslash and what follows it stand for.
    fn escape(&mut self) -> Result<char, Wrong> {
        let letter = *self.written.get(self.at).ok_or("unknown \\ escape")?;
        self.at += 1;
        let digits = match letter {
            'x' => 2,
            'u' => 4,
            _ => 0,
        };
        if digits > 0 {
            let text: Option<String> = self.written.get(self.at..self.at + digits).map(|list| list.iter().collect());
            let code = text.filter(|text| text.bytes().all(|b| b.is_ascii_hexdigit()));
            let code = code.and_then(|text| u32::from_str_radix(&text, 16).ok()).and_then(char::from_u32);
            self.at += digits;
            return code.ok_or("unknown \\ escape");
        }
        match letter {
            'a' => Ok('\x07'),
            'f' => Ok('\x0c'),
            'n' => Ok('\n'),
            'r' => Ok('\r'),
            't' => Ok('\t'),
            'v' => Ok('\x0b'),
            letter if "\\()*.+?[$^{|}]-".contains(letter) => Ok(letter),
            _ => Err("unknown \\ escape"),
        }
    }
}

fn single(character: char) -> Set {
    Set { ranges: vec![(character, character)], negated: false }
}

#[cfg(test)]
mod tests;
