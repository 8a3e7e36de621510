"""Some accounts or hundreds, several workers, one server, one virtual clock, one seed.

The workers are the real scheduler with the real client, machine and vault; the server is the sandbox's logic in process.
What lies between them, and between them and the store, is made of faults that the seed draws: crashes at any await,
pauses longer than a lease, requests and replies that are lost or doubled, slow replies, nonsense, clocks that are off, a
store that fails before or after it has done what it was asked, or is away for a while. What a worker kept aside is
recovered by the next one. After each run a judge holds what happened against the promises.

    world    puts it all together and runs it
    worker   a process that can crash and pause: the scheduler, with everything it touches made unreliable
    network  between the client and the server
    judge    the promises, held against what the server and the store saw
"""
