"""The words of the demonstration's grammar: what can be said in each of fourteen subjects.

Entries are parted by ``;``. ``{film|movie}`` is one thing with two names, ``praise=commend`` one deed with
two verbs, ``pass/fail`` are two verbs that deny each other. An entry may end in ``: a, b``, what it fits.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Domain:
    """One subject; within it, any entry of a field can stand wherever that field stands."""

    name: str
    people: str
    """Persons, who can all do the `deeds` to one another."""
    deeds: str
    bodies: str
    """Organisations, which can all do the `dealings` to one another."""
    dealings: str
    tasks: str
    """Two verbs of which each denies the other, and what they are done to."""
    goods: str
    """Movable things, which are sold, lent and sent."""
    counts: str
    """What a person does to a number of things."""
    levels: str
    """Quantities that go up and down, each with its unit."""
    events: str
    """Happenings that can come in any order."""
    facts: str
    """What one person can tell another."""
    scenes: str
    """Circumstances under which anything else of the domain may happen."""
    places: str


# fmt: off
DOMAINS = (
    Domain("farming",
        people="shepherd; beekeeper; {vet|veterinarian}; fruit grower; dairy farmer; miller",
        deeds="advise=counsel; thank; hire=employ; phone=telephone; praise=commend; help=assist",
        bodies="growers' union; seed company; dairy cooperative; farm bank; irrigation board",
        dealings="sue; supply; warn=caution; fund=finance; consult",
        tasks="meet/miss: the planting deadline, the harvest target; pass/fail: the soil test",
        goods="the old tractor; the hay baler; the prize bull; the plough; the wool press",
        counts="raise=rear: ewes, lambs, goats, geese; plant: pear trees, hedges, vines, walnut trees",
        levels="the price of wheat: dollars a tonne; milk output: litres a day",
        events="the rain began; the harvest started; the thresher broke down; the auction opened",
        facts="the well was dry; the lower gate was open; the wheat was ripe; the hives were empty; "
        "the fence was broken; the barn was infested with rats",
        scenes="as drought spread across the valley; during the lambing season; although fodder was scarce; "
        "after weeks of {heavy|torrential} rain",
        places="at the county fair; in the upper pasture; near the grain market"),
    Domain("medicine",
        people="surgeon; midwife; pharmacist; {doctor|physician}; dentist; paramedic",
        deeds="examine; treat; reassure=comfort; replace; consult; vaccinate",
        bodies="teaching hospital; insurance fund; nurses' association; blood bank; health ministry",
        dealings="reimburse=repay; sue; inspect; criticise=censure; consult",
        tasks="pass/fail: the hygiene inspection, the licensing exam; accept/reject: the new {medicine|drug}",
        goods="the portable scanner; the spare ventilator; the microscope; the wheelchair; the heart monitor",
        counts="treat: burns, fractures, infections, migraines; prescribe: inhalers, painkillers",
        levels="the {flu|influenza} vaccination rate: %; the average hospital stay: hours",
        events="the ambulance arrived; the clinic closed; the fever returned; the blood sample was lost; "
        "the shift ended; the bandage was removed; the twins were born",
        facts="the fracture had healed; the vaccine was safe; the ward was full; the results were normal",
        scenes="as the epidemic slowed; during the night shift; although beds were {scarce|in short supply}; "
        "despite a shortage of nurses",
        places="at the children's clinic; in the emergency ward; outside the laboratory"),
    Domain("football",
        people="goalkeeper; striker; {coach|trainer}; referee; defender; team captain",
        deeds="praise=commend; insult=offend; push=shove; mock=ridicule; blame; injure=hurt",
        bodies="home side; league champion; visiting team; second-division club; student eleven",
        dealings="defeat=beat; outplay; challenge; humiliate; eliminate=knock out",
        tasks="win/lose: the cup final, the penalty shoot-out; accept/reject: the transfer offer",
        goods="the silver trophy; the signed jersey; the team bus; the scoreboard; the training kit",
        counts="receive: yellow cards, medals, awards; sign: autographs, shirts, posters, photographs",
        levels="the club's debt: million euros; the ticket price: euros; the team's share of possession: %",
        events="the whistle blew; the floodlights failed; the crowd left; the striker was substituted",
        facts="the match was cancelled; the pitch was frozen; the injury was serious; "
        "the tickets were forged; the substitute was unfit; the kickoff was delayed",
        scenes="as fog covered the {pitch|field}; during the winter break; "
        "although the stadium was half empty; after a goalless first half",
        places="at the national stadium; in the locker room; near the players' tunnel"),
    Domain("business",
        people="accountant; {shop|store} owner; auditor; investor; sales director; treasurer",
        deeds="mislead=deceive; sue; hire=employ; promote; outbid; reimburse=repay",
        bodies="furniture maker; investment bank; shipping firm; toy retailer; cement producer",
        dealings="acquire=take over; sue; outbid; finance=fund; overtake=surpass",
        tasks="meet/miss: the sales target, the loan deadline; accept/reject: the merger offer, the pay deal",
        goods="the delivery van; the cash register; the printing press; the forklift; the packing machine",
        counts="open=launch: branches, warehouses, kiosks, showrooms; file=submit: invoices, tax returns",
        levels="quarterly profit: million dollars; the share price: pounds; the firm's market share: %",
        events="the shares fell; the chairman resigned; the audit began; the factory reopened; "
        "the loan was repaid; the catalogue was printed; the trademark was registered",
        facts="the invoice was forged; the warehouse was empty; sales were falling; the patent had expired",
        scenes="as interest rates climbed; during the {takeover|buyout} talks; although demand was weak; "
        "despite rising energy costs",
        places="at the annual meeting; in the boardroom; outside the stock exchange"),
    Domain("science",
        people="chemist; geologist; astronomer; {lab|laboratory} technician; biologist; statistician",
        deeds="assist=help; cite; flatter; train=teach; nominate; surprise=astonish",
        bodies="polar institute; space agency; marine laboratory; research council; physics department",
        dealings="fund=finance; consult; criticise=fault; invite; outspend",
        tasks="accept/reject: the hypothesis, the manuscript; notice/overlook: the calibration fault",
        goods="the electron microscope; the meteorite; the fossil skull; the centrifuge; the laser",
        counts="discover=find: comets, craters, beetles, enzymes; publish: papers, maps, atlases, reviews",
        levels="the lake's average depth: metres; the sample's purity: %; the reactor temperature: degrees",
        events="the probe landed; the experiment failed; the funding ran out; the crystal melted",
        facts="the isotope was stable; the telescope was faulty; the glacier was shrinking; "
        "the fossil was genuine; the sensor was miscalibrated; the virus was extinct",
        scenes="as the solar storm weakened; during the polar expedition; "
        "although the {data|figures} were incomplete; after months of measurements",
        places="at the mountain observatory; in the clean room; aboard the research ship"),
    Domain("law",
        people="judge; prosecutor; {lawyer|attorney}; bailiff; court clerk; detective",
        deeds="accuse; question=interrogate; defend; flatter; thank; recognise=identify",
        bodies="appeals court; supreme court; bar association; police department; prison service",
        dealings="overrule; investigate=probe; criticise=rebuke; sue; advise=counsel",
        tasks="win/lose: the libel case, the appeal; obey/disobey: the court order",
        goods="the sealed envelope; the case file; the stolen necklace; the tape recorder",
        counts="question=interrogate: witnesses, suspects, informants; sign: warrants, affidavits, permits",
        levels="the fine: thousand dollars; the conviction rate: %; the sentence: months",
        events="the jury returned; the suspect confessed; the witness fainted; the trial was adjourned; "
        "the verdict leaked; the bail was posted; the handcuffs were removed",
        facts="the alibi was false; the safe was unlocked; the evidence had vanished; the will was invalid",
        scenes="as protesters gathered outside; during the fraud {trial|case}; "
        "although the evidence was thin; despite repeated objections",
        places="at the district courthouse; in the judge's chambers; outside the prison"),
    Domain("local government",
        people="mayor; city planner; {councillor|council member}; tax inspector; building surveyor",
        deeds="outvote; criticise=rebuke; appoint; endorse=back; warn=caution; dismiss=fire",
        bodies="town council; housing authority; parks department; school board; water utility",
        dealings="overrule; subsidise; audit; warn=caution; petition",
        tasks="approve/reject: the zoning plan, the annual budget; keep/break: the election promise",
        goods="the snow plough; the street sweeper; the bronze statue; the voting machine; the fire engine",
        counts="inspect=check: bridges, playgrounds, sewers, car parks; open: shelters, nurseries, libraries",
        levels="the property tax: dollars; voter turnout: %; the speed limit: kilometres an hour",
        events="the mayor resigned; the bridge collapsed; the polls closed; the strike ended",
        facts="the bridge was unsafe; the ballot was void; the pool was closed; the permit had expired; "
        "the petition was signed; the playground was vandalised; the archive was mouldy",
        scenes="as residents protested; during the {budget|spending} debate; although the hall was crowded; "
        "after a narrow vote",
        places="at the town hall; in the council chamber; beside the new bus station"),
    Domain("weather and rescue",
        people="lifeguard; weather forecaster; {firefighter|fireman}; harbour pilot; mountain guide",
        deeds="rescue=save; warn=caution; guide; alert; carry; reassure=calm",
        bodies="coastal patrol; fire brigade; flood agency; mountain rescue team; weather bureau",
        dealings="alert; equip; criticise=censure; contact; reinforce",
        tasks="notice/overlook: the storm warning, the distress signal; obey/disobey: the evacuation order",
        goods="the rubber dinghy; the water pump; the storm lantern; the rescue sledge; the signal flare",
        counts="rescue=save: hikers, sailors, campers, climbers; fill: sandbags, buckets, water tanks",
        levels="the wind speed: knots; the snow depth: centimetres; the risk of flooding: %",
        events="the storm struck; the river flooded; the siren sounded; the power went out; the fog lifted; "
        "the avalanche hit; the lifeboat capsized; the thunder faded; the helicopter took off",
        facts="the dam was leaking; the road was icy; the cyclone was weakening; the radio was dead",
        scenes="as the {hurricane|tropical storm} approached; during the blizzard; "
        "although visibility was poor; despite gale-force winds",
        places="at the lighthouse; in the harbour; below the northern ridge"),
    Domain("travel",
        people="tour guide; hotel manager; {tourist|holidaymaker}; hitchhiker; taxi driver; innkeeper",
        deeds="overcharge; recommend; greet=welcome; photograph; trick=fool; follow",
        bodies="cruise line; tourist board; budget airline; hotel chain; ferry operator",
        dealings="sue; promote=advertise; buy out; compensate; recommend",
        tasks="catch/miss: the night ferry, the connecting flight; find/miss: the turning",
        goods="the leather suitcase; the guidebook; the camper van; the folding map; the canoe",
        counts="visit: temples, castles, islands, vineyards; reserve=book: cabins, bunks, window seats",
        levels="the room rate: euros a night; hotel occupancy: %; the cabin fee: pounds",
        events="the ferry sailed; the volcano erupted; the border closed; the luggage arrived",
        facts="the beach was crowded; the visa had expired; the hotel was overbooked; the ferry was late; "
        "the elevator was stuck; the museum was shut; the souvenirs were overpriced",
        scenes="as the {holiday|vacation} season began; during the festival; "
        "although the roads were blocked; despite long queues at customs",
        places="at the beach resort; in the departure lounge; along the coastal path"),
    Domain("music and theatre",
        people="violinist; conductor; {actor|performer}; composer; playwright; soprano",
        deeds="applaud; inspire; imitate=copy; admire; replace; embarrass",
        bodies="chamber orchestra; film studio; opera house; ballet company; art gallery",
        dealings="sponsor; invite; sue; outshine=eclipse; hire=engage",
        tasks="win/lose: the singing contest, the copyright case; accept/reject: the leading role",
        goods="the grand piano; the oil painting; the antique cello; the velvet costume; the film projector",
        counts="rehearse=practise: sonatas, ballads, hymns; buy=purchase: portraits, landscapes, murals",
        levels="the top bid: thousand francs; the running time: minutes",
        events="the curtain fell; the lights dimmed; the choir sang; the critic walked out; "
        "the encore began; the drummer sneezed; the spotlight exploded; the chandelier fell",
        facts="the {film|movie} was a remake; the concert was sold out; the painting was fake",
        scenes="as the audience cheered; during the summer festival; although the hall was cold; "
        "after a {long|lengthy} interval",
        places="at the open-air theatre; in the recording studio; behind the main stage"),
    Domain("technology",
        people="programmer; systems engineer; {web|website} designer; data analyst; hacker; chip designer",
        deeds="hire=recruit; trick=fool; mentor=coach; criticise; recommend; outsmart=outwit",
        bodies="chip maker; software house; phone company; search engine; cloud provider",
        dealings="acquire=buy; sue; overtake=surpass; hack; copy=imitate",
        tasks="pass/fail: the security audit, the stress test; meet/miss: the launch date",
        goods="the prototype; the server rack; the 3D printer; the quadcopter; the backup drive",
        counts="repair=fix: laptops, routers, keyboards, tablets; test: batteries, sensors, browsers",
        levels="the download speed: megabits; the error rate: %; the subscription fee: dollars a month",
        events="the server crashed; the update was released; the password leaked; the battery caught fire",
        facts="the code was stolen; the network was down; the firewall was disabled; "
        "the chip was overheating; the domain was registered; the hard disk was encrypted",
        scenes="as hackers attacked the network; during the {cellphone|mobile phone} fair; "
        "although the code was unfinished; despite several outages",
        places="at the developer conference; in the data centre; inside the robotics workshop"),
    Domain("education",
        people="head teacher; librarian; {student|pupil}; school nurse; language tutor; gym instructor",
        deeds="encourage; scold=reprimand; teach=instruct; thank; nominate; interview",
        bodies="grammar school; technical college; examination board; parents' committee; music academy",
        dealings="invite; outperform=surpass; criticise=fault; fund=finance; sue",
        tasks="pass/fail: the spelling test, the geometry exam; answer/ignore: the parents' letter",
        goods="the globe; the chess set; the blackboard; the telescope; the school minibus",
        counts="borrow: dictionaries, novels, textbooks; correct=mark: essays, worksheets, quizzes",
        levels="the pass mark: points; the dropout rate: %; the tuition fee: dollars a term",
        events="the bell rang; the exam ended; the buses arrived; the choir practised",
        facts="the answer was wrong; the library was closed; the lesson was cancelled; "
        "the classroom was flooded; the certificate was missing; the corridor was noisy",
        scenes="as the school year ended; during the {break|recess}; although the heating was broken; "
        "after a week of exams",
        places="at the science fair; in the assembly hall; behind the gymnasium"),
    Domain("food",
        people="baker; pastry chef; {waiter|server}; butcher; sommelier; fishmonger",
        deeds="teach=instruct; thank; pay; praise=commend; hire=employ; insult=offend",
        bodies="chocolate factory; noodle bar; vegetarian restaurant; family brewery; corner cafe",
        dealings="supply; sue; copy=imitate; undercut; recommend",
        tasks="win/lose: the cookery contest; pass/fail: the kitchen inspection, the tasting test",
        goods="the copper kettle; the pasta machine; the bread oven; the meat slicer; the coffee grinder",
        counts="bake: pies, tarts, pretzels, muffins; peel: onions, mangoes, turnips, {courgettes|zucchini}",
        levels="the price of butter: cents; the restaurant's score: points; the cocoa content: %",
        events="the guests arrived; the oven caught fire; the soup boiled over; the bill came; "
        "the cake was served; the candles were lit; the dishwasher jammed; the cork popped",
        facts="the milk was sour; the sauce was burnt; the oysters were fresh; the terrace was full",
        scenes="as the lunch crowd waited; during the {autumn|fall} festival; although the kitchen was tiny; "
        "despite a shortage of flour",
        places="at the fish market; in the cellar; behind the counter"),
    Domain("publishing",
        people="novelist; literary editor; translator; {reporter|journalist}; bookseller; cartoonist",
        deeds="interview; quote=cite; admire; mock=ridicule; recommend; mislead=deceive",
        bodies="evening newspaper; poetry magazine; radio station; paperback publisher; news agency",
        dealings="sue; quote=cite; acquire=buy; outsell; criticise=censure",
        tasks="meet/miss: the printing deadline; accept/reject: the book contract, the literary prize",
        goods="the typewriter; the first edition; the photo album; the diary; the signed copy",
        counts="write=pen: limericks, editorials, biographies, thrillers; translate: fables, {plays|dramas}",
        levels="the daily print run: thousand copies; the royalty: %; the cover price: shillings",
        events="the scandal broke; the editor resigned; the presses stopped; the biography appeared",
        facts="the rumour was untrue; the photograph was doctored; the source was reliable; "
        "the quotation was invented; the headline was misprinted; the sequel was finished",
        scenes="as readers complained; during the book fair; although advertising was in decline; "
        "after a {long|lengthy} lawsuit",
        places="at the press conference; in the newsroom; near the central archive"),
)
# fmt: on
HELD_OUT = ("food", "publishing")
"""The subjects that only the test split speaks of."""

TRANSFERS = (("sell", "buy=purchase"), ("lend=loan", "borrow"), ("send", "receive"))
"""One action seen from the giver's side and from the taker's."""

TOURS = "give a talk=deliver a talk; visit a colleague=see a colleague; meet the press=face the press"
"""What anybody can do in one town after another."""

IRREGULAR = (
    "beat beat beaten; break broke broken; buy bought bought; catch caught caught; counsel counselled "
    "counselled; equip equipped equipped; find found found; give gave given; hold held held; hurt hurt hurt; "
    "keep kept kept; lend lent lent; lose lost lost; meet met met; mislead misled misled; outbid outbid "
    "outbid; outsell outsold outsold; outshine outshone outshone; outspend outspent outspent; outwit "
    "outwitted outwitted; overtake overtook overtaken; pay paid paid; pen penned penned; repay repaid "
    "repaid; see saw seen; sell sold sold; send sent sent; skip skipped skipped; take took taken; teach "
    "taught taught; submit submitted submitted; tell told told; travel travelled travelled; undercut "
    "undercut undercut; win won won; write wrote written"
)
"""Verbs whose past and participle are not made with -ed."""

ADJECTIVES = (
    "young veteran visiting local popular outspoken experienced tall Danish Kenyan Chilean Polish Korean "
    "Greek Irish Peruvian Canadian Turkish Indian Welsh cheerful anxious stubborn famous shy tireless "
    "quiet clever Brazilian Swedish Egyptian Nigerian Mexican Dutch"
)
FIRST_NAMES = (
    "Marta Tariq Ingrid Kofi Yuki Pablo Leila Owen Priya Anton Chloe Emeka Freya Hugo Jasmine Karim Lucia "
    "Milan Nadia Oscar Petra Quentin Rosa Stefan Tessa Umar Vera Walter Zoltan Beatrice Carlo Dilara Erik "
    "Amara Bruno Celine Dmitri Elif Farid Greta Hassan Irina Jonas Kirsten Lorenzo Mehmet Noor Odette"
)
LAST_NAMES = (
    "Lindqvist Haddad Solberg Mensah Tanaka Moreno Farouk Bevan Raman Novak Laurent Adeyemi Olsen Keller "
    "Whitlock Aziz Romano Horvat Petrov Delgado Bauer Dupont Silva Meyer Carver Rahman Holm Fischer Vargas "
    "Kovacs Barlow Conti Yilmaz Nyberg Abdi Brandt Castillo Demir Eriksen Fontaine Gupta Hartmann Okafor"
)
TOWNS = (
    "Oslo Lima Porto Nairobi Kyoto Quebec Leeds Ankara Hanoi Boston Malmo Cusco Ghent Tunis Perth Havana "
    "Dublin Seville Accra Denver Turin Osaka Bergen Madras Austin Zagreb Cardiff Riga Bogota Tartu Izmir "
    "Nantes Lagos Tampa Graz Split Dakar Omaha Bilbao Cairo Durban Hobart Kigali Lyon Mumbai Naples"
)
MONTHS = "January February March April May June July August September October November December"
ORDINALS = (
    "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth fourteenth "
    "fifteenth sixteenth seventeenth eighteenth nineteenth twentieth"
)
UNITS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
    "seventeen eighteen nineteen"
)
TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
